"""Bundle adjustment: the engine, its solvers, and the covariance at the solution."""

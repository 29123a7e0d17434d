"""Linear solvers of the reduced system of bundle adjustment."""

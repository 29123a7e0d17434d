"""hpckit: computing with MPI from Python."""

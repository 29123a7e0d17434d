import sys

from hpckit.apps.doctor.job import Config, compile_kernels, main
from hpckit.program.run import run

if __name__ == "__main__":
    if "--compile" in sys.argv and "--help" not in sys.argv:
        sys.exit(compile_kernels(sys.argv[1:]))
    run(Config, main, program="hpckit.apps.doctor")

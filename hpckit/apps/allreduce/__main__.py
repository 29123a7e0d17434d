from hpckit.apps.allreduce.config import Config, dry_run, main
from hpckit.program.run import run

if __name__ == "__main__":
    run(Config, main, program="hpckit.apps.allreduce", dry_run=dry_run)

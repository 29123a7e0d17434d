from hpckit.apps.kmedoids.config import Config, dry_run, main
from hpckit.program.run import run

if __name__ == "__main__":
    run(Config, main, program="hpckit.apps.kmedoids", dry_run=dry_run)

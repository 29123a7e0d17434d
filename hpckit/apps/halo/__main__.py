from hpckit.apps.halo.config import Config, dry_run, main
from hpckit.program.run import run

if __name__ == "__main__":
    run(Config, main, program="hpckit.apps.halo", dry_run=dry_run)

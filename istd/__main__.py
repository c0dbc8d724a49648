"""`python -m istd COMMAND OPTIONS`, for instance under torchrun: `torchrun --nproc_per_node=2 -m istd train`."""

from istd.command import run

if __name__ == "__main__":
    run()

# What a job of a cluster needs before its command, put into its script by --setup: adapt it to yours.
# module load cuda
source .venv/bin/activate

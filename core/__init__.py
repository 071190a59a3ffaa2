"""What all packages share: parameters, sealed folders, the command line, errors, variables of the
environment, progress and pages.

Nothing here decides the data in an artefact, so no stage in dvc.yaml depends on it: a reworded
error re-makes nothing. The cost: DVC would not see a change here that does alter bytes.
tests/test_golden.py does. Whatever decides bytes (randomness, domains, recipes, packing) is in
assets/. This package imports none of the others, and no PyTorch, pandas, Dagster or DVC.
"""

"""The graph seen and driven: the only package that imports Dagster or DVC, and of the others it
imports `core` alone.
"""

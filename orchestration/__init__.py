"""The graph seen and driven: the only package that imports Dagster or DVC, and it imports none of
the others.
"""

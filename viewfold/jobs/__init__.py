"""Composition: recipes, one job per verb, registry, report. The only folder that sees all the others."""

"""Run folders side by side: tables, a page, the Pareto front. Imports no torch."""

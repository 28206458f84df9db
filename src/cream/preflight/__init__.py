"""Before a run: recipe, data, models and machine are checked, and everything wrong is found now."""

"""What a user asks before or after a run: plan, doctor, explain. Reads and measures, never runs."""

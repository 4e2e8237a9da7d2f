"""Settings of comparisons by environment, for the built-in policy: `tokengym compare AGENT… --env ID` reads ID.yaml here."""

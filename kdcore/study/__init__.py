"""Arms × seeds: the published studies."""

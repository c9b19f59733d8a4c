"""Several processes: launch, collectives, seeding."""

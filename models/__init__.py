"""The networks: `build_model(name, **options)`."""

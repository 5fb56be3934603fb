"""The recipes: one YAML file each, holding only what differs from the defaults."""

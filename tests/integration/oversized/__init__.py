"""Modules whose weights exceed the device memory allowed. The tests share `shared` and `hostile_rotation`."""

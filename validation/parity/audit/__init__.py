"""What half precision does to each operation of a package, and what it costs."""

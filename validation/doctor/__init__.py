"""What a Core ML package will meet on a device, known before it is shipped: rules with sources,
and the difference between two packages. Packages are read, never run."""

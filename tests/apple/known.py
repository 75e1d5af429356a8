"""Cases of coremltools' tests in which the interpreter differs, by how their names begin, with the
reason of each."""

DIFFERENCES = {}

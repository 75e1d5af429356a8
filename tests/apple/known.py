"""Cases of coremltools' tests in which the interpreter differs: the file, parts that their names
have, and the reason."""

DIFFERENCES = (
    (
        "iOS14/test_normalization.py",
        ("TestNormalizationLocalResponseNorm::test_builder_to_backend_smoke", "fp32"),
        "the expected numbers take the axis of 1 in (1, 3, 2) for the channel; the operation's "
        "description, PyTorch and the test beside it take axis 1",
    ),
    (
        "iOS15/test_image_resizing.py",
        ("TestCropResize::test_builder_to_backend_smoke",),
        "the box lies outside of the picture and runs backwards; the expected numbers are those of "
        "the whole picture, by a rule that is published nowhere",
    ),
    (
        "iOS16/test_image_resizing.py",
        ("TestCropResize::test_builder_to_backend_ios16", "fp32"),
        "the expected number was typed as 7.899 and is 7.9",
    ),
    (
        "iOS17/test_image_resizing.py",
        ("TestCropResize::test_builder_to_backend_ios17", "fp32", "N=3"),
        "the expected number was typed as 7.899 and is 7.9",
    ),
    (
        "iOS15/test_image_resizing.py",
        ("TestResample::test_builder_to_backend_smoke", "fp32"),
        "the test counts casts that only half precision has",
    ),
    (
        "iOS17/test_scatter_gather.py",
        ("test_ios17_invalid_indices", "validate_indices=False"),
        "what indices outside do is undefined: the interpreter counts negative ones from the end "
        "and refuses others",
    ),
)


def known_reason(name):
    """Why the case `name` differs, None if it should not."""
    for file, parts, reason in DIFFERENCES:
        if name.startswith(file) and all(part in name for part in parts):
            return reason
    return None

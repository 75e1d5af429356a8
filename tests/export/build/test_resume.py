"""An export that is stopped goes on where it was, whoever builds the parts, to the same bytes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from export.backends import BACKENDS
from export.build import parts
from export.build.job import open_job
from export.build.part_cache import PartCache
from export.build.parts import build_part, part_key
from export.build.progress import Progress
from export.checkpoint.calibrated import CALIBRATED
from export.checkpoint.checkpoint import Checkpoint
from export.checkpoint.source import content_sha256
from export.pipeline import export_bundle
from mobile_runtime.bundle import list_files, read_manifest, verify_files
from mobile_runtime.errors import InputError
from mobile_runtime.files import this_process
from tests.paths import ROOT


def export(config):
    return export_bundle(config, BACKENDS["coreml"], Progress(quiet=True))


@pytest.fixture
def built(monkeypatch):
    """Names of the parts that are written, not found."""
    names = []
    write = parts._write

    def note(job, request, source, folder, advance):
        names.append(request.part)
        return write(job, request, source, folder, advance)

    monkeypatch.setattr(parts, "_write", note)
    return names


def files_of(bundle):
    manifest = read_manifest(bundle)
    verify_files(bundle, manifest)
    return (bundle / "manifest.json").read_bytes(), list_files(bundle)


def test_second_export_builds_nothing_and_is_the_same(config, built):
    first = files_of(export(config))
    assert sorted(built) == ["decoder", "lm_head", "resampler", "tables", "vision_encoder"]
    built.clear()
    assert files_of(export(replace(config, overwrite=True))) == first
    assert built == []


def test_without_cache_the_bytes_are_the_same_and_nothing_is_kept(config, built):
    first = files_of(export(replace(config, no_cache=True)))
    assert not config.cache.exists()
    assert [path.name for path in config.output.iterdir()] == ["minicpmv-4.5-coreml-int4-fast"]
    assert files_of(export(replace(config, overwrite=True))) == first


def test_failure_keeps_what_is_finished(config, built, monkeypatch):
    convert = BACKENDS["coreml"].convert

    def fail_at_the_resampler(graph, specs, weights, path):
        if graph.role == "resampler":
            raise RuntimeError("injected")
        convert(graph, specs, weights, path)

    with monkeypatch.context() as patch:
        patch.setattr(BACKENDS["coreml"], "convert", fail_at_the_resampler)
        with pytest.raises(RuntimeError, match="injected"):
            export(config)
    done = set(built) - {"resampler"}
    assert done and not list(config.output.iterdir())
    built.clear()
    bundle = export(config)
    assert built[0] == "resampler" and not done & set(built)
    assert files_of(bundle) == files_of(export(replace(config, no_cache=True, overwrite=True)))


def test_another_recipe_builds_the_changed_packages_alone(config, built):
    export(config)
    built.clear()
    export(replace(config, override={"lm_head": "int8"}, overwrite=True))
    assert built == ["lm_head"]


def test_other_shapes_are_other_packages(config, built):
    export(config)
    built.clear()
    export(replace(config, context_length=96, overwrite=True))
    assert "decoder" in built


def test_a_cache_with_a_flipped_bit_gives_the_same_bytes(config):
    reference, rng = files_of(export(config)), random.Random(0)
    for _ in range(40):
        path = rng.choice(sorted(p for p in config.cache.rglob("*") if p.is_file()))
        data = bytearray(path.read_bytes())
        place = rng.randrange(8 * len(data))
        data[place // 8] ^= 1 << place % 8
        path.unlink()  # it is one file with that of the bundle
        path.write_bytes(data)
        assert files_of(export(replace(config, overwrite=True))) == reference


def test_a_link_in_the_cache_does_not_get_into_a_bundle(config, tmp_path):
    reference = files_of(export(config))
    (weights,) = config.cache.glob("entries/*/*/content/lm_head.mlpackage/**/weight.bin")
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    bundle = export(replace(config, overwrite=True))
    assert files_of(bundle) == reference
    assert not any(path.is_symlink() for path in bundle.rglob("*"))


@pytest.fixture
def copied(config, tmp_path):
    """The checkpoint in a folder of its own, to be changed; change(name) negates a tensor."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for path in Path(config.checkpoint).iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def negate(folder, tensor):
    tensors = load_file(folder / "model.safetensors")
    tensors[tensor] = -tensors[tensor]
    save_file(tensors, folder / "model.safetensors")


def test_changed_weights_are_built_anew_and_the_others_are_not(config, built, copied):
    config = replace(config, checkpoint=str(copied))
    first = read_manifest(export(config)).source.sha256
    negate(copied, "llm.model.norm.weight")
    built.clear()
    manifest = read_manifest(export(replace(config, overwrite=True)))
    assert built == ["lm_head"]
    assert manifest.source.sha256 == content_sha256(Checkpoint(copied)) != first


def test_the_same_weights_elsewhere_are_recognized(config, built, copied):
    export(config)
    built.clear()
    export(replace(config, checkpoint=str(copied), overwrite=True))
    assert built == []


def test_damaged_entry_is_built_again(config, built):
    first = files_of(export(config))
    (weights,) = config.cache.glob("entries/*/*/content/lm_head.mlpackage/**/weight.bin")
    values = bytearray(weights.read_bytes())
    values[-100] ^= 1
    weights.unlink()  # the bundle has the file, too
    weights.write_bytes(values)
    built.clear()
    assert files_of(export(replace(config, overwrite=True))) == first
    assert built == ["lm_head"]


def test_changed_code_builds_everything_anew(config, built, monkeypatch):
    export(config)
    built.clear()
    monkeypatch.setattr(parts, "code_digest", lambda: "other")
    export(replace(config, overwrite=True))
    assert len(built) == 5


def test_release_with_another_body_finds_other_parts(config, random_checkpoint):
    def other_layer(ops, x, config, n, attend):
        return x

    job = open_job(random_checkpoint, config, BACKENDS["coreml"])
    release = job.release
    bodies = replace(release.bodies, decoder_layer=other_layer)
    described = replace(job.described, release=replace(release, bodies=bodies))
    assert part_key(job, "decoder") == part_key(replace(job), "decoder")
    assert part_key(replace(job, described=described), "decoder") != part_key(job, "decoder")


def test_trimming_removes_what_was_used_longest_ago(config):
    export(config)
    cache = PartCache(config.cache)
    entries = sorted(config.cache.glob("entries/*/*"))
    cache.trim(0)
    assert sorted(config.cache.glob("entries/*/*")) == entries  # in use within the last hour
    for age, entry in enumerate(entries):
        os.utime(entry, (time.time() - 10_000 - age,) * 2)
    sizes = [
        sum(p.stat().st_size for p in (e / "content").rglob("*") if p.is_file()) for e in entries
    ]
    cache.trim(sum(sizes[:2]))
    assert sorted(config.cache.glob("entries/*/*")) == entries[:2]


def test_calibrations_are_trimmed_like_parts(tmp_path):
    cache, now = PartCache(tmp_path), time.time()
    for age, name in enumerate(("new", "old", "older.partial"), 2):
        folder = tmp_path / CALIBRATED / name
        folder.mkdir(parents=True)
        (folder / "block_000.safetensors").write_bytes(bytes(100))
        os.utime(folder, (now - 3600 * age,) * 2)
    cache.trim(250)
    assert {path.name for path in (tmp_path / CALIBRATED).iterdir()} == {"new", "old"}
    cache.trim(100)
    assert {path.name for path in (tmp_path / CALIBRATED).iterdir()} == {"new"}


def test_workplaces_of_the_dead_are_removed_and_of_the_living_kept(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    cache = PartCache(tmp_path)
    host = this_process().rpartition("-")[0]
    container = f"{host}0"  # of one name on this machine, with process numbers of its own
    living = [f"{host}-{os.getpid()}", f"elsewhere-{dead.pid}", f"{container}-{dead.pid}"]
    owners = [f"{host}-{dead.pid}", *living]
    for owner in owners:
        cache.workplace(owner, "decoder")
    cache.clean()
    assert {path.name for path in (tmp_path / "partial").iterdir()} == set(owners[1:])


def test_two_processes_write_what_one_writes(config):
    alone = files_of(export(replace(config, no_cache=True)))
    assert files_of(export(replace(config, jobs=2, overwrite=True))) == alone


def test_cluster_writes_what_one_process_writes(config):
    distributed = pytest.importorskip("distributed")
    alone = files_of(export(replace(config, no_cache=True)))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        address = cluster.scheduler_address
        assert files_of(export(replace(config, scheduler=address, overwrite=True))) == alone


def die(request):
    """Runs in the worker process, as if it had been killed for memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_dead_worker_is_one_sentence(config, monkeypatch):
    from export.build import workers

    monkeypatch.setattr(workers, "build_part", die)
    with pytest.raises(InputError, match="--jobs 1"):
        export(replace(config, jobs=2))
    assert list(config.output.iterdir()) == []


def command(config, *flags):
    arguments = ["--checkpoint", config.checkpoint, "--output", str(config.output)]
    arguments += ["--cache", str(config.cache), "--context-length", "64", "--prefill-length", "4"]
    arguments += ["--quant", config.quant]
    return [sys.executable, "-m", "export", "coreml", "--quiet", *arguments, *flags]


@pytest.mark.parametrize(
    ("jobs", "wanted", "calibrated"), [("1", 8, False), ("2", 2, False), ("1", 5, True)]
)
def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(
    config, jobs, wanted, calibrated, tmp_path
):
    """Real SIGKILL: the bundle is never there by halves."""
    flags = ["--jobs", jobs]
    if calibrated:
        texts = tmp_path / "texts.json"
        texts.write_text(json.dumps({"texts": ["The quick brown fox. " * 60, "0123456789 " * 90]}))
        config = replace(config, quant="int4", calibration=str(texts))
        flags += ["--calibration", str(texts)]
    fresh = export(replace(config, output=config.output / "reference", no_cache=True))
    reference, target = files_of(fresh), config.output / fresh.name
    rng = random.Random(int(jobs))
    started = time.monotonic()
    subprocess.run(command(config, *flags, "--no-cache"), cwd=ROOT, check=True)
    duration = time.monotonic() - started
    kills = 0
    while kills < wanted:
        if target.exists():
            files_of(target)
            subprocess.run(["rm", "-rf", str(target), str(config.cache)], check=True)
        process = subprocess.Popen(command(config, *flags), cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.2, 1.0) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    if not target.exists():
        subprocess.run(command(config, *flags), cwd=ROOT, check=True)
    assert files_of(target) == reference


def running(mark):
    """Processes of which an environment variable is `mark`, by their files in /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"MARK={mark}".encode() in path.read_bytes().split(b"\0"):
                found.append(path.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("kind", ["export", "answers"])
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_no_worker_outlives_its_parent(config, kind, sent):
    answers = ["answers", "--limit", "300", "--jobs", "2"]
    commands = {
        "export": command(config, "--jobs", "2", "--no-cache"),
        "answers": [sys.executable, "-m", "validation", *answers],
    }
    rng = random.Random(kind)
    for number in range(3):
        mark = f"{kind}-{sent}-{number}-{os.getpid()}"
        process = subprocess.Popen(
            commands[kind], cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "MARK": mark}
        )
        started = time.monotonic()
        while len(running(mark)) < 2 and process.poll() is None:
            assert time.monotonic() < started + 60, "workers start"
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 2))
        process.send_signal(sent)
        process.wait()
        ended = time.monotonic()
        while running(mark):
            assert time.monotonic() < ended + 10, "workers end"
            time.sleep(0.1)


def test_part_says_how_far_it_is(config, tmp_path, random_checkpoint):
    """Without a listener the count goes to a file; with one, to the listener."""
    counted = []
    request = parts.PartRequest(
        "decoder", random_checkpoint, config, "coreml", tmp_path / "c", "me-1", 1
    )
    part = build_part(request, counted.append)
    assert not part.reused and part.peak_memory > 1e7
    assert sum(counted) == sum(
        int(np.prod(p.shape))
        for p in parts.open_job(random_checkpoint, config, BACKENDS["coreml"])
        .plan.graphs[2]
        .parameters
    )
    meter = parts._Meter(tmp_path / "progress")
    meter(3)
    meter(4)
    assert (tmp_path / "progress").read_text() == "7"


@pytest.fixture
def small_disk(tmp_path):
    """small_disk(bytes) -> a file system of that size; skips where mounting is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        arguments = ["mount", "-t", "tmpfs", "-o", ",".join(options), "none", str(folder)]
        if subprocess.run(arguments, capture_output=True, check=False).returncode:
            pytest.skip("needs the right to mount a small file system")
        return folder

    yield mount
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


@pytest.mark.parametrize("jobs", [1, 2])
def test_disk_that_fills_up_is_one_sentence_and_the_old_bundle_stays(
    config, small_disk, monkeypatch, jobs
):
    from export import pipeline

    disk = small_disk("size=2m")
    config = replace(config, output=disk, no_cache=True, jobs=jobs, overwrite=True)
    old = disk / "minicpmv-4.5-coreml-int4-fast"
    old.mkdir()
    (old / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"needs [\d,]+ bytes, .*disk has [\d,]+ free"):
        export(config)
    monkeypatch.setattr(pipeline, "_check_disk", lambda *arguments: None)  # somebody else fills it
    with pytest.raises(InputError, match=r"the disk is full .* run the same command again"):
        export(config)
    assert [path.name for path in disk.iterdir()] == [old.name]
    assert (old / "mine.txt").read_text() == "mine"


def test_disk_that_cannot_be_written_is_one_sentence(config, small_disk):
    disk = small_disk("size=1m", "ro")
    for change in ({"output": disk}, {"cache": disk / "cache"}):
        with pytest.raises(InputError, match=r"cannot write to .*disk.* --output or --cache"):
            export(replace(config, **change))

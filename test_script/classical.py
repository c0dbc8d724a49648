"""Run a detector without learning over a dataset, and save its responses.

Methods: tophat (Rivest and Fortin 1996), mpcm (Wei et al. 2016), ipi (Gao et al. 2013, seconds per image); see
test_script/classical_detectors.py. The responses are float32 maps, <frame>.npy or <sequence>/<frame>.npy, which
`test_script.evaluate --normalize` measures. Maps that an earlier run of the same options and files wrote are kept.

Examples:

    python -m test_script.classical --method tophat --dataset NUAA-SIRST --output_dir predict/tophat
    python -m test_script.evaluate --normalize --predictions predict/tophat --dataset NUAA-SIRST
"""

import argparse
from dataclasses import replace
from pathlib import Path

from tqdm.contrib.concurrent import thread_map

from istd.datasets import Sequence
from istd.datasets.fingerprint import fingerprint
from istd.test_script.classical_detectors import DETECTORS
from istd.test_script.options import add_part_options, add_range_option, open_part
from istd.test_script.results.frame_set import FrameRef, choose_frames, dataset_frames, read_names
from istd.test_script.results.result_files import frame_file, write_map
from istd.test_script.results.run_folder import RUN, check_run, read_run
from istd.utils.command_line import command_parser
from istd.utils.errors import InputError, run_main
from istd.utils.files import write_json
from istd.utils.folder_lock import locked_folder
from istd.utils.grey_levels import SEQUENCE, GreyScale, RangeRule, range_frames, range_value
from istd.utils.images import read_pixels
from istd.utils.names import counted
from istd.utils.ranks import cores_of_process


def main(argv: list[str] | None = None) -> None:
    """Write the responses of a detector to the frames of a dataset that have a mask."""
    args = parse_arguments(argv)
    index = open_part(args)
    print(index.summary)
    sequences, rule = index.split(args.split), args.range or SEQUENCE
    frame_set = dataset_frames(index, sequences)
    if args.list:
        frame_set = choose_frames(frame_set, read_names(args.list))
    scales = {sequence.name: grey_scale(sequence, rule) for sequence in sequences}
    output = args.output_dir or Path("predict") / index.info.name / args.method
    run = {"method": args.method, "dataset": index.info.name, "root": str(index.root), "range": range_value(rule)}

    def map_file(frame: FrameRef) -> Path:
        return frame_file(output, frame.sequence, frame.name, ".npy")

    with locked_folder(output):
        known = {}
        if check_run(output, run, resume=True) != "none":
            known = read_run(output).get("images", {})
        elif any(output.rglob("*.npy")):
            raise InputError(f"{output} holds maps, but no {RUN}; choose another --output_dir")
        now = {sequence.name: _images_fingerprint(sequence) for sequence in sequences}
        changed = [sequence for sequence in sequences if known.get(sequence.name) != now[sequence.name]]
        # all maps of these sequences, whatever --list chooses
        old = [path for frame in dataset_frames(index, changed).frames if (path := map_file(frame)).exists()]
        if old:
            print(f"{counted(len(old), 'map')} in {output}: of other images, or of an earlier version; computed anew")
        for path in old:
            path.unlink()
        write_json(output / RUN, run | {"images": known | now})

        def write(frame: FrameRef) -> None:
            if not (path := map_file(frame)).exists():
                grey = scales[frame.row_names[0]](read_pixels(frame.image))
                write_map(path, DETECTORS[args.method](grey))

        workers = cores_of_process()
        thread_map(write, frame_set.frames, max_workers=workers, desc=args.method, unit="image", disable=None)
    print(f"{len(frame_set.frames)} maps in {output}; measure them with --normalize of test_script.evaluate")


def _images_fingerprint(sequence: Sequence) -> str:
    """The `fingerprint` of the images of a sequence, without its masks, which no detector reads."""
    return fingerprint([replace(sequence, frames=tuple(replace(frame, mask=None) for frame in sequence.frames))], True)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = command_parser("test_script.classical", __doc__)
    add = parser.add_argument
    add("--method", required=True, choices=tuple(DETECTORS), help="the detector")
    add("--dataset", required=True, metavar="NAME|FOLDER", help="name from datasets/path_config.py, or a folder")
    add_part_options(parser)
    add_range_option(parser)
    add("--list", type=Path, metavar="FILE", help="only the images or sequences that a file names, one per line")
    add("--output_dir", type=Path, metavar="DIR", help="where to write; default predict/DATASET/METHOD")
    return parser.parse_args(argv)


def grey_scale(sequence: Sequence, rule: RangeRule) -> GreyScale:
    """The scale that converts the frames of a sequence to 0..1."""
    return GreyScale(rule, lambda: (frame.read_image() for frame in range_frames(sequence.frames)))


if __name__ == "__main__":
    run_main(main)

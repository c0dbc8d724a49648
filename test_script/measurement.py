"""Measuring the frames of a dataset: a network's maps by every protocol, and the files of each frame."""

from dataclasses import dataclass
from pathlib import Path

from scipy.special import expit
from torch.utils.data import DataLoader
from tqdm import tqdm

from istd.datasets import ClipDataset, ClipSample
from istd.test_script.predictor import Predictor, ScoreMaps
from istd.test_script.predictor.detections import detection_row, find_detections
from istd.test_script.report.report_cases import KeptFrames
from istd.test_script.results.result_files import background_calls, frame_file, write_map, write_mask
from istd.test_script.results.work_parts import Part, loader_batches, save_part
from istd.utils.distributed import is_main
from istd.utils.metrics import MetricAccumulator, Protocol
from istd.utils.metrics.matching import close_pairs
from istd.utils.metrics.regions import Scene, find_regions


@dataclass
class Measurement:
    """Measures frames by every protocol and writes their files; called in the background, one frame at a time."""

    protocols: list[Protocol]
    output: Path
    dataset: ClipDataset
    save_maps: str | None
    kept: KeptFrames

    def __call__(self, part: Part, sample: ClipSample, maps: ScoreMaps) -> None:
        """Measure the next frame of `part`, and write the part's file after its last frame."""
        probability = maps.probability if maps.probability is not None else expit(maps.logit)
        scores = {"probability": probability, "logit": maps.logit}
        truth = sample.mask[0].numpy() > 0
        for protocol in self.protocols:
            metric = MetricAccumulator(protocol)
            metric.update(scores[protocol.scale], truth, part.sequence, sample.frame)
            part.rows.setdefault(protocol.name, []).extend(metric.rows)
        part.curves.update(probability, truth, part.sequence, sample.frame)

        def file(folder: str, suffix: str) -> Path:
            return frame_file(self.output / folder, part.sequence, sample.frame, suffix)

        first = self.protocols[0]
        mask = first.iou_map(scores[first.scale])
        found = find_detections(mask, probability)
        part.detections += [detection_row(sample.sequence, sample.frame, one) for one in found]
        if part.sequence is not None:
            scene = Scene(mask, truth, find_regions(truth))
            part.targets.append(scene.targets.centroids[:, ::-1].tolist())
            part.pairs.append([column.tolist() for column in close_pairs(scene.targets, scene.regions)])
        write_mask(file("masks", ".png"), mask)
        if self.save_maps:
            write_map(file("probabilities", f".{self.save_maps}"), probability)
        if self.save_maps == "npy" and maps.logit is not None:
            write_map(file("logits", ".npy"), maps.logit)
        item = part.items[len(part.sizes)]
        number, index = self.dataset.targets[item]
        image = self.dataset.sequences[number].frames[index].image
        self.kept.offer(item, part.rows[first.name][-1], image, probability, truth)
        part.sizes.append(truth.shape)
        if part.done:
            save_part(self.output / "parts", part)


def predict_parts(parts: list[Part], predictor: Predictor, measure: Measurement, num_workers: int) -> None:
    """Run the network over the items of `parts`, measuring them in the background."""
    part_of = {item: part for part in parts for item in part.items}
    batches = list(loader_batches(parts, predictor.batch_size, num_workers))
    if not batches:
        return
    loader = DataLoader(
        measure.dataset,
        batch_sampler=batches,
        collate_fn=list,  # sizes may differ within a batch
        num_workers=num_workers,
        multiprocessing_context="spawn" if num_workers and predictor.device.type == "cuda" else None,
    )
    scales = {protocol.scale for protocol in measure.protocols}
    hidden = None if is_main() else True  # None: shown on a terminal
    progress = tqdm(total=len(part_of), desc=measure.dataset.dataset_name, unit="frame", disable=hidden)
    with background_calls() as submit, progress:
        for items, samples in zip(batches, loader, strict=True):
            clips, sizes = [one.clip for one in samples], [tuple(one.mask.shape[-2:]) for one in samples]
            maps = predictor.score_maps(clips, sizes, probability="probability" in scales, logit="logit" in scales)
            for item, sample, scores in zip(items, samples, maps, strict=True):
                submit(measure, part_of[item], sample._replace(clip=None), scores)
            progress.update(len(samples))

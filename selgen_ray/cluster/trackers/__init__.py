"""The `trackers` of a sweep: TensorBoard, W&B, MLflow and Trackio, each by its own API."""

from selgen_ray.cluster.trackers.callback import TrackerError, Trackers, readings, tracker_callbacks

__all__ = ["TrackerError", "Trackers", "readings", "tracker_callbacks"]

"""Metrics to the trackers that people look at: TensorBoard, trackio, wandb, MLflow.

Every stage has one x axis, its own step from 1, and is a run of its own in the tracker, named
after the stage. So a metric keeps the name that the field gives it (``rewards/margins``) and the
iterations lie over each other in one chart.

`sending` decides what is sent, once each, and that no tracker can harm a run; one file per library
only passes it on. The libraries are imported when the first point is sent.
"""

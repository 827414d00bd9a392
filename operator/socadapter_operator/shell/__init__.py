"""The operator's process: what watches, queues, logs, measures and answers probes around the planner."""

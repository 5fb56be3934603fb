"""From images on disk to training batches: pools split by patient, slices read on demand, patches of the body."""

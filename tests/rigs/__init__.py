"""What tests share that is no lab: fakes, pairs in memory, the plane with the test as its peer."""

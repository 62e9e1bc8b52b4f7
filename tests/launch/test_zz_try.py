from tests.launch.test_planted_faults import planted
def test_it(train):
    r = planted(train, "UnderflowsUnscaled", "broken_training:Underflows", "fp16")
    for c in r.parity.checks: print(c)

import time
from tests.launch.conftest import train
C = [("Underflows","fp16",1),("UnderflowsUnscaled","fp16",1),("NeverReduced","ddp",2),("ReducedAtFirst","ddp",2),("OneBiasNotReduced","ddp",2),
("NanFromStep2","bf16",1),("OwnOrderOnEachRank","ddp",2),("OwnWeightsOnEachRank","ddp",2),("Adapts","eager",1),("MovesItsBase","eager",1),("NotDeterministic","bf16",1),("Miscompiled","compile",1),("CompiledUphill","compile",1)]
def test_it(train):
    inc = "".join(f'[[include]]\nworkload="broken_training:{n}"\nmode="{m}"\nworld_size={w}\n' for n,m,w in C)
    inc += "".join(f'[[include]]\nworkload="broken_training:{n}"\nmode="eager"\n' for n,m,w in C if m!="eager")
    inc += "".join(f'[[include]]\nworkload="own_line:Healthy"\nmode="{m}"\nworld_size={w}\n' for m,w in [("ddp",2),("compile",1)])
    t=time.time()
    r = train('settings={steps=20,threads=1,budget_seconds=0,deadline_seconds=60}\n'+inc)
    print("total", time.time()-t)
    for k, v in r.items(): print(k, v.status, round(v.wall_seconds,1), v.error and v.error.message, v.parity and v.parity.deterministic, v.parity and [(c.value, c.limit, c.tensor) for c in v.parity.checks])

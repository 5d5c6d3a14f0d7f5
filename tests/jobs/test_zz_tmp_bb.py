import sys; sys.path[:0]=["/work/main","/work/main/tests/jobs"]
from test_train import *
from pathlib import Path
import test_train
@pytest.fixture(scope="module")
def base(): 
    return Path("/tmp/A/base2")
def test_bb(shop, spark):
    import torch
    if not Path("/tmp/A/base2/encoder.json").exists():
        torch.manual_seed(0); export_unified(Path("/tmp/A/base2"), Fusion(FusionShape()).eval(), {})
    code, printed = shop.train("train.depth=backbones","train.steps=2","train.evaluate_every=1","train.batch=3","train.learning_rate=0.01")
    print(printed); assert code==0
    print(shop.record("data"))
    code, printed = shop.train("train.depth=backbones","train.steps=2","train.evaluate_every=1","train.batch=3","train.learning_rate=0.01","encoder.path="+str(sorted((shop.root/"store/encoders").glob("*/encoder.json"))[0].parent), "pairs.seed=3")
    print(code, printed[-1500:])

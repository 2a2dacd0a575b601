# Transformer for translation, pre-norm: the decoder reads the encoder's output, computed once, in
# every block, and its padding is masked.
param vocab = 65
param d = 64
param heads = 4
param blocks = 2
param context = 32

input source: int[batch, s] < vocab
input target: int[batch, t] < vocab
input seen: bool[batch, 1, 1, s]

def linear(n) = Bias @ Linear(n)
def head = SplitHeads(heads) @ linear(d)
def attend = Attention(scale = "1/sqrt(d)")
def out = linear(d) @ MergeHeads
def feed = linear(d) @ ReLU @ linear(4 * d)

def encode = (Identity + feed @ LayerNorm) @ (Identity + look @ LayerNorm)
  where look = out @ attend @ (head, head, head, seen)
def embed = Embed(vocab, d) + Embed(context, d) @ Enumerate

shared memory = LayerNorm @ encode ** blocks @ embed @ source

def decode = (Identity + feed @ LayerNorm) @ (Identity + read @ LayerNorm) @ (Identity + look @ LayerNorm)
  where
    look = out @ Attention(true, scale = "1/sqrt(d)") @ (head, head, head)
    read = out @ attend @ (head, head @ memory, head @ memory, seen)

model Seq2Seq = linear(vocab) @ LayerNorm @ decode ** blocks @ embed @ target

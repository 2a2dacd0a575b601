# nanoGPT in its usual form: biases and gains, x + f(norm(x)), logits of attention over √d, and
# with `tied` one table for tokens and scores. `mean` writes the residual stream as the running
# mean that it is; `blocks_mass` gives the blocks that mass together, 0 leaves every weight's own.

param vocab = 65
param context = 32
param d_embed = 64
param heads = 4
param blocks = 2
param blocks_mass = 0
param tied = true
param mean = false

input tokens: int[batch, seq] < vocab

shared table = Embed(vocab, d_embed)

def norm(terms = 1) = Bias @ Scale @ RMSDivide(eps = 1e-5 / terms ** 2) @ MeanSubtract
def linear(n) = Bias @ Linear(n)

def attention = linear(d_embed) @ MergeHeads @ Attention(true, scale = sqrt(d_embed / heads))
              @ (q, k, v)
  where
    q = SplitHeads(heads) @ linear(d_embed)
    k = SplitHeads(heads) @ linear(d_embed)
    v = SplitHeads(heads) @ linear(d_embed)

def mlp = linear(d_embed) @ GELU @ linear(4 * d_embed)

def add(f, n) = (1 - 1 / (n + 1)) * Identity + 1 / (n + 1) * f @ norm(n) if mean
                else Identity + f @ norm
def block(i) = add(mlp, 2 * i + 2) @ add(attention, 2 * i + 1)
def stack = compose(block(i) for i in range(blocks))
def weighed = tare(stack, blocks_mass) if blocks_mass > 0 else stack
def last = norm(2 * blocks + 1) if mean else norm
def head = d_embed * Unembed(table) if tied else Linear(vocab)
model GPT = head @ last @ weighed @ (table + position)
  where
    position = Embed(context, d_embed) @ Enumerate

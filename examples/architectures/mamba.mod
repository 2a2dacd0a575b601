# A selective state space model: a causal convolution along each channel, then h' = a * h + b * x by
# gates that follow from the entries, and a gate behind it.
param vocab = 65
param d = 64
param blocks = 2

input tokens: int[batch, seq] < vocab

def conv = Transpose @ Bias @ Conv1D(2 * d, kernel = 4, padding = "causal", groups = 2 * d) @ Transpose
def scanned = Scan(cell, carry = 3/4) @ (keep, write)
  where
    keep = Sigmoid @ Bias @ Linear(2 * d)
    write = Linear(2 * d)
    cell = Lerp @ (Select(1) @ Select(1), Select(0), Select(0) @ Select(1))
def mixer = Linear(d) @ ((scanned @ SiLU @ conv @ Linear(2 * d)) * (SiLU @ Linear(2 * d)))
def block = Identity + mixer @ RMSNorm

model Mamba = Linear(vocab) @ RMSNorm @ block ** blocks @ Embed(vocab, d)

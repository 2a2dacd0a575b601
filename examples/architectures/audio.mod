# Convolutions over a wave form, with dilations that grow.
param classes = 10
param width = 16

input wave: float[batch, 1, time]

def conv(c, k, stride = 1, dilation = 1) = ReLU @ GroupNorm(4) @ Conv1D(c, kernel = k, stride = stride,
  padding = 0 if dilation == 1 else "causal", dilation = dilation)
def block(i) = Identity + conv(width, 3, dilation = 2 ** i)

model Audio = Bias @ Linear(classes) @ Mean(2) @ compose(block(i) for i in range(1, 4)) @ conv(width, 9, 4)

# LoRA: frozen layers, each with a learned change of rank r that begins at zero.
param r = 4
param alpha = 8

input x: float[batch, 64]

def lora(n) = Bias(mass = 0) @ (Linear(n, mass = 0) + alpha / r * up @ down)
  where
    down = Linear(r)
    up = Linear(n, init = "zero")

model LoRA = Bias @ Linear(10) @ ReLU @ lora(64) @ ReLU @ lora(64)

# modula's GPT, exactly, for the comparisons in this folder.

import std.modula

param width = 128
param blocks = 4
param vocab = 65
param context = 64
param heads = 4

input tokens: int[batch, seq] < vocab

model GPT = modula.GPT(vocab, context, heads, width, width / heads, width / heads, blocks)

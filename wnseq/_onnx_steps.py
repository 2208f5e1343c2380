"""Layers step by step as functions of ONNX, whose own LSTM, GRU and RNN reset no state inside a sequence."""
# mypy: ignore-errors

# Each function runs one layer. products: W_ih x and the biases outside of a product with h, (T, N, G·H); keep: 0 where
# the state is zero before a step, else 1, (T, N, 1); states: (N, H); weight: W_hh transposed, (H, G·H), gates in
# torch's order; bias: b_hh, (3·H,). They return the output, (T, N, H), and the final states. From the annotations
# the exporter reads how many those are, and no dtype.

from onnxscript import FLOAT, graph, opset18, script
from onnxscript.values import Opset

WNSEQ = Opset("wnseq", 1)


@script(WNSEQ, default_opset=opset18)
def lstm_steps(products: FLOAT, keep: FLOAT, h: FLOAT, c: FLOAT, weight: FLOAT) -> tuple[FLOAT, FLOAT, FLOAT]:
    """Run a layer of an LSTM whose state is reset inside a sequence."""

    @graph()
    def step(h, c, product, kept):
        i, f, g, o = opset18.Split(product + opset18.MatMul(h * kept, weight), axis=1, num_outputs=4)
        new_c = opset18.Sigmoid(f) * (c * kept) + opset18.Sigmoid(i) * opset18.Tanh(g)
        new_h = opset18.Sigmoid(o) * opset18.Tanh(new_c)
        output = opset18.Identity(new_h)
        return new_h, new_c, output

    final_h, final_c, outputs = opset18.Scan(h, c, products, keep, body=step, num_scan_inputs=2)
    return outputs, final_h, final_c


@script(WNSEQ, default_opset=opset18)
def gru_steps(products: FLOAT, keep: FLOAT, h: FLOAT, weight: FLOAT, bias: FLOAT) -> tuple[FLOAT, FLOAT]:
    """Run a layer of a GRU whose state is reset inside a sequence."""

    @graph()
    def step(h, product, kept):
        before = h * kept
        r_x, z_x, n_x = opset18.Split(product, axis=1, num_outputs=3)
        r_h, z_h, n_h = opset18.Split(opset18.MatMul(before, weight) + bias, axis=1, num_outputs=3)
        n = opset18.Tanh(n_x + opset18.Sigmoid(r_x + r_h) * n_h)
        new_h = n + opset18.Sigmoid(z_x + z_h) * (before - n)
        output = opset18.Identity(new_h)
        return new_h, output

    final_h, outputs = opset18.Scan(h, products, keep, body=step, num_scan_inputs=2)
    return outputs, final_h


@script(WNSEQ, default_opset=opset18)
def tanh_steps(products: FLOAT, keep: FLOAT, h: FLOAT, weight: FLOAT) -> tuple[FLOAT, FLOAT]:
    """Run a layer of an RNN with tanh whose state is reset inside a sequence."""

    @graph()
    def step(h, product, kept):
        new_h = opset18.Tanh(product + opset18.MatMul(h * kept, weight))
        output = opset18.Identity(new_h)
        return new_h, output

    final_h, outputs = opset18.Scan(h, products, keep, body=step, num_scan_inputs=2)
    return outputs, final_h


@script(WNSEQ, default_opset=opset18)
def relu_steps(products: FLOAT, keep: FLOAT, h: FLOAT, weight: FLOAT) -> tuple[FLOAT, FLOAT]:
    """Run a layer of an RNN with relu whose state is reset inside a sequence."""

    @graph()
    def step(h, product, kept):
        new_h = opset18.Relu(product + opset18.MatMul(h * kept, weight))
        output = opset18.Identity(new_h)
        return new_h, output

    final_h, outputs = opset18.Scan(h, products, keep, body=step, num_scan_inputs=2)
    return outputs, final_h

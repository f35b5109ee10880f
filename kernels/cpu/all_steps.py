"""All steps of a batch of sequences in one call: controller, interface layer and memory.

A call takes a range of batch elements through all steps, so that threads with their own ranges
meet only at the end. If there are fewer elements than threads, the caller runs the stages of each
step one by one, and the threads share the strips of the link matrices. Both give the same sums.
"""

from __future__ import annotations

import math

from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from ..arrays import Adjoint, Step
from . import step as kernels
from .compile import kernel
from .layers import layer, layer_backward
from .product import add_product
from .variant import Variant


@intrinsic
def _array_at(typingctx, address, shape, like):
    """The contiguous array of this shape at an address, with the dtype of `like`."""
    kind = types.Array(like.dtype, shape.count, "C")

    def generate(context, builder, signature, arguments):
        result = context.make_array(kind)(context, builder)
        sizes = cgutils.unpack_tuple(builder, arguments[1])
        itemsize = context.get_constant(types.intp, like.dtype.bitwidth // 8)
        strides = [itemsize]
        for size in reversed(sizes[1:]):
            strides.insert(0, builder.mul(strides[0], size))
        data = builder.inttoptr(arguments[0], result.data.type)
        populate_array(result, data, sizes, strides, itemsize, meminfo=None)
        return result._getvalue()

    return kind(address, shape, like), generate


@kernel
def _step(t, steps, reads):
    """The arrays of step t, with all its sequences."""
    before, after, place = steps.before[t], steps.after[t], steps.place[t]
    (_, Hw, N), W = steps.write.shape, reads.shape[2]
    cells = (steps.batch_sizes[t], N, W)
    links = (steps.batch_sizes[t], Hw, N, N)
    return Step(
        steps.vectors[place:],
        _array_at(steps.memory0[t], cells, reads),
        _array_at(steps.memory1[t], cells, reads),
        steps.usage[before:],
        steps.usage[after:],
        steps.precedence[before:],
        steps.precedence[after:],
        _array_at(steps.link0[t], links, reads),
        _array_at(steps.link1[t], links, reads),
        steps.write[before:],
        steps.write[after:],
        steps.read[before:],
        steps.read[after:],
        reads[steps.output[t] :],
    )


@kernel
def _variant_at(t, steps, variant):
    """The variant with what step t keeps, if there is one."""
    if variant is None:
        return None
    return Variant(
        variant.similarity,
        variant.masked,
        variant.mask_floor,
        variant.allocation,
        variant.steepness,
        variant.deallocate,
        variant.sharp,
        variant.ones,
        variant.d_masks,
        variant.kept,
        variant.psi,
        variant.d_psi,
        variant.linked[steps.place[t] :],
        variant.sharpened,
        variant.last,
        variant.changes,
        variant.modes,
        variant.toward,
        variant.away,
    )


@kernel
def _copy(values, out):
    for j in range(out.shape[0]):
        out[j] = values[j]


@kernel
def _add(values, out):
    for j in range(out.shape[0]):
        out[j] += values[j]


@kernel
def _clip(values, bound):
    for j in range(values.shape[0]):
        if values[j] > bound:
            values[j] = bound
        if values[j] < -bound:
            values[j] = -bound


@kernel
def _clip_backward(values, bound, gradient):
    """The gradient of values before they were clipped: 0 where they were."""
    zero, limit = values.dtype.type(0), values.dtype.type(bound)
    for j in range(values.shape[0]):
        if abs(values[j]) >= limit:
            gradient[j] = zero


@kernel
def _control(first, last, t, steps):
    """From r_{t-1} to the hidden activations and the interface vectors of step t."""
    before, after, place, output = steps.before[t], steps.after[t], steps.place[t], steps.output[t]
    layers, _, H = steps.hidden0.shape
    own, size = steps.own, steps.reads.shape[1] * steps.reads.shape[2]
    count = last - first
    for index in range(layers):
        inputs, active = steps.inputs[index], steps.active[index]
        lower = size + (H if index else 0)
        for b in range(first, last):
            seen = inputs[place + b]
            reads = steps.reads0[b] if t == 0 else steps.reads[steps.output[t - 1] + b]
            _copy(reads.reshape(size), seen[:size])
            if index:
                below = steps.features[output + b, (index - 1) * H : index * H]
                _copy(below, seen[size:lower])
            if t == 0:
                _copy(steps.hidden0[index, b], seen[lower : lower + own])
            else:
                hidden = steps.features[steps.output[t - 1] + b, index * H : index * H + own]
                _copy(hidden, seen[lower : lower + own])
            _copy(steps.x_part[index, output + b], active[place + b])
        add_product(inputs, place + first, steps.weights[index], active, place + first, count)
        c = steps.c[index]
        for b in range(first, last):
            layer(
                steps.kind,
                active[place + b],
                inputs[place + b, lower : lower + own],
                c[before + b],
                c[after + b],
                steps.tanh_c[index, place + b],
                steps.features[output + b, index * H : index * H + H],
            )
            if steps.c_clip < math.inf:
                _clip(c[after + b], steps.c_clip)
    for b in range(first, last):
        _copy(steps.bias, steps.vectors[place + b])
    add_product(
        steps.features, output + first, steps.interface, steps.vectors, place + first, count
    )


@kernel
def _copy_reads(b, t, steps):
    """Copy the read vectors of step t to the features."""
    place = steps.output[t] + b
    reads, row = steps.reads[place], steps.features[place]
    size = reads.size
    _copy(reads.reshape(size), row[row.shape[0] - size :])


@kernel
def forward(stage, first, last, start, stop, steps, scratch, variant, choices):
    """Run all of the steps [start, stop) for the batch elements [first, last).

    Or a stage of a single step, see `step.forward`; the controller comes first, the features last.
    """
    for t in range(start, stop):
        end = last if stage == kernels.LINKS else min(last, steps.batch_sizes[t])
        if first >= end:
            return
        if stage in (kernels.ALL, kernels.BEFORE):
            _control(first, end, t, steps)
        step, own = _step(t, steps, steps.reads), _variant_at(t, steps, variant)
        kernels.forward(stage, first, end, step, scratch, own, choices)
        if stage in (kernels.ALL, kernels.AFTER):
            for b in range(first, end):
                _copy_reads(b, t, steps)


@kernel
def rebuild(stage, first, last, t, steps, scratch, variant):
    """Rebuild what the forward pass did not keep of the state after step t, see `step.rebuild`."""
    kernels.rebuild(stage, first, last, _step(t, steps, steps.reads), scratch, variant)


@kernel
def _rebuild_segment(first, last, t, steps, scratch, variant):
    """Likewise for the segment that ends with step t."""
    strips = scratch.columns.shape[1]
    for s in range(t - t % steps.interval, t + 1):
        end = min(last, steps.batch_sizes[s])
        if steps.rebuilt[s] > 0:
            rebuild(kernels.BEFORE, first, end, s, steps, scratch, variant)
        if steps.rebuilt[s] > 1:
            rebuild(kernels.LINKS, first * strips, end * strips, s, steps, scratch, variant)


@kernel
def _adjoint(t, steps, adjoint):
    """The gradients that step t of the memory works on."""
    state = adjoint.state
    return Adjoint(
        adjoint.vectors[steps.place[t] :],
        state.memory,
        state.usage,
        state.precedence,
        state.link,
        state.write,
        state.read,
    )


@kernel
def _control_backward(first, last, t, steps, adjoint):
    """From the gradient of the interface vectors of step t to that of r_{t-1}."""
    place, output = steps.place[t], steps.output[t]
    layers, _, H = steps.hidden0.shape
    count = last - first
    add_product(
        adjoint.vectors, place + first, adjoint.interface, adjoint.hidden, output + first, count
    )
    seen = adjoint.seen
    size = adjoint.reads.shape[1] * adjoint.reads.shape[2]
    for index in range(layers - 1, -1, -1):
        lower = size + (H if index else 0)
        d_active = adjoint.active[index]
        for b in range(first, last):
            d_hidden = adjoint.last[index, b]
            _add(adjoint.hidden[output + b, index * H : index * H + H], d_hidden)
            if index + 1 < layers:  # seen is still that of the layer above
                _add(seen[b, size : size + H], d_hidden)
            if steps.c_clip < math.inf:
                c = steps.c[index, steps.after[t] + b]
                _clip_backward(c, steps.c_clip, adjoint.c[index, b])
            _clip(d_hidden, adjoint.clip)
            _clip(adjoint.c[index, b], adjoint.clip)
            layer_backward(
                steps.kind,
                steps.active[index, place + b],
                steps.inputs[index, place + b, lower : lower + steps.own],
                steps.c[index, steps.before[t] + b],
                steps.tanh_c[index, place + b],
                steps.features[output + b, index * H : index * H + H],
                d_hidden,
                adjoint.c[index, b],
                d_active[place + b],
            )
        for b in range(first, last):
            for j in range(seen.shape[1]):
                seen[b, j] = seen.dtype.type(0)
        add_product(d_active, place + first, adjoint.weights[index], seen, first, count)
        for b in range(first, last):
            row = seen[b]
            _add(row[lower : lower + steps.own], adjoint.last[index, b, : steps.own])
            d_reads = adjoint.reads0[b] if t == 0 else adjoint.reads[steps.place[t - 1] + b]
            _add(row[:size], d_reads.reshape(size))


@kernel
def backward(stage, first, last, start, stop, steps, adjoint, scratch, variant, choices):
    """Run all of the steps [start, stop) backward, for the batch elements [first, last).

    This rebuilds segments. Or a stage of a single step, whose matrices are already there, see
    `step.backward`; the controller comes last.
    """
    for t in range(stop - 1, start - 1, -1):
        end = last if stage == kernels.LINKS else min(last, steps.batch_sizes[t])
        if stage == kernels.ALL and (t + 1 == stop or (t + 1) % steps.interval == 0):
            _rebuild_segment(first, last, t, steps, scratch, variant)
        if first < end:
            step, own = _step(t, steps, adjoint.reads), _variant_at(t, steps, variant)
            gradients = _adjoint(t, steps, adjoint)
            kernels.backward(stage, first, end, step, gradients, scratch, own, choices)
            if stage in (kernels.ALL, kernels.AFTER):
                _control_backward(first, end, t, steps, adjoint)

"""Writing to and reading from the cells of one batch element.

    M_t = M prod_h (1 - ww_h e_h^T) + sum_h ww_h v_h^T;  r_r = wr_r M_t

Shapes: memory (N, W), write_weights (Hw, N), erase_vectors and write_vectors (Hw, W),
read_weights (R, N), read_vectors (R, W).
"""

from __future__ import annotations

from .compile import apart, kernel


@apart
def _write(row, weight, erase, vector, new_row):
    """new_row = row (1 - weight erase) + weight vector."""
    one = row.dtype.type(1)
    for w in range(row.shape[0]):
        new_row[w] = row[w] * (one - weight * erase[w]) + weight * vector[w]


@apart
def _write_alone_backward(row, gradient, weight, erase, vector, d_erase, d_vector):
    """`_write_backward` for a single head; also takes the gradient to the cell before the write."""
    one = row.dtype.type(1)
    total = row.dtype.type(0)
    for w in range(row.shape[0]):
        d_new = gradient[w]
        erased = d_new * row[w]
        total += d_new * vector[w] - erased * erase[w]
        d_vector[w] += weight * d_new
        d_erase[w] -= weight * erased
        gradient[w] = d_new * (one - weight * erase[w])
    return total


@apart
def _write_backward(gradient, erased, weight, erase, vector, d_erase, d_vector):
    """Add to d_erase and d_vector; return the gradient of the weight. erased is a row of Q."""
    total = gradient.dtype.type(0)
    for w in range(gradient.shape[0]):
        total += gradient[w] * vector[w] - erased[w] * erase[w]
        d_vector[w] += weight * gradient[w]
        d_erase[w] -= weight * erased[w]
    return total


@apart
def _read_backward(row, gradient, weight, d_vector):
    """Add to the gradient of a cell; return that of the weight."""
    total = gradient.dtype.type(0)
    for w in range(row.shape[0]):
        total += d_vector[w] * row[w]
        gradient[w] += weight * d_vector[w]
    return total


@kernel
def write_memory(memory, write_weights, erase_vectors, write_vectors, new_memory):
    """Fill new_memory."""
    one = memory.dtype.type(1)
    Hw, W = erase_vectors.shape
    for n in range(memory.shape[0]):
        row, new_row = memory[n], new_memory[n]
        if Hw == 1:
            _write(row, write_weights[0, n], erase_vectors[0], write_vectors[0], new_row)
            continue
        for w in range(W):
            new_row[w] = row[w]
        for head in range(Hw):
            weight, erase = write_weights[head, n], erase_vectors[head]
            for w in range(W):
                new_row[w] *= one - weight * erase[w]
        for head in range(Hw):
            weight, vector = write_weights[head, n], write_vectors[head]
            for w in range(W):
                new_row[w] += weight * vector[w]


@kernel
def write_memory_backward(
    memory, write_weights, erase_vectors, write_vectors, d_memory, d_write_weights, d_erase_vectors,
    d_write_vectors, others,
):  # fmt: skip
    """Take d_memory from M_t to M_{t-1}, add to d_write_weights, fill the other two gradients.

    With F_h = 1 - ww_h e_h and Q_h = dM M prod over the other heads of F:
    dv_h = dM^T ww_h;  de_h = -Q_h^T ww_h;  dww_h = dM v_h - Q_h e_h;  dM becomes dM prod_h F_h.
    others (W) is work space for a row of Q.
    """
    zero = memory.dtype.type(0)
    one = memory.dtype.type(1)
    Hw, W = erase_vectors.shape
    for head in range(Hw):
        for w in range(W):
            d_erase_vectors[head, w] = zero
        for w in range(W):
            d_write_vectors[head, w] = zero
    for n in range(memory.shape[0]):
        row, gradient = memory[n], d_memory[n]
        if Hw == 1:
            d_write_weights[0, n] += _write_alone_backward(
                row, gradient, write_weights[0, n], erase_vectors[0], write_vectors[0],
                d_erase_vectors[0], d_write_vectors[0],
            )  # fmt: skip
            continue
        for head in range(Hw):
            weight = write_weights[head, n]
            erase, vector = erase_vectors[head], write_vectors[head]
            d_erase, d_vector = d_erase_vectors[head], d_write_vectors[head]
            for w in range(W):
                others[w] = gradient[w] * row[w]
            for other in range(Hw):
                if other != head:
                    for w in range(W):
                        others[w] *= one - write_weights[other, n] * erase_vectors[other, w]
            d_write_weights[head, n] += _write_backward(
                gradient, others, weight, erase, vector, d_erase, d_vector
            )
        for head in range(Hw):
            weight, erase = write_weights[head, n], erase_vectors[head]
            for w in range(W):
                gradient[w] *= one - weight * erase[w]


@kernel
def read_memory(memory, read_weights, read_vectors):
    """Fill read_vectors."""
    for r in range(read_vectors.shape[0]):
        for w in range(read_vectors.shape[1]):
            read_vectors[r, w] = memory.dtype.type(0)
    N = memory.shape[0]
    fours = N - N % 4
    for n in range(0, fours, 4):
        m0, m1, m2, m3 = memory[n], memory[n + 1], memory[n + 2], memory[n + 3]
        for r in range(read_weights.shape[0]):
            vector = read_vectors[r]
            w0, w1 = read_weights[r, n], read_weights[r, n + 1]
            w2, w3 = read_weights[r, n + 2], read_weights[r, n + 3]
            for w in range(vector.shape[0]):
                vector[w] += w0 * m0[w] + w1 * m1[w] + w2 * m2[w] + w3 * m3[w]
    for n in range(fours, N):
        row = memory[n]
        for r in range(read_weights.shape[0]):
            weight, vector = read_weights[r, n], read_vectors[r]
            for w in range(row.shape[0]):
                vector[w] += weight * row[w]


@kernel
def read_memory_backward(d_read_vectors, memory, read_weights, d_memory, d_read_weights):
    """Add to d_memory and d_read_weights."""
    for n in range(memory.shape[0]):
        row, gradient = memory[n], d_memory[n]
        for r in range(read_weights.shape[0]):
            d_read_weights[r, n] += _read_backward(
                row, gradient, read_weights[r, n], d_read_vectors[r]
            )

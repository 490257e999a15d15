/* Counts float32 values by the upper 16 bits of their pattern, and finds their extremes, in one pass.
 *
 *     count(values, bins) -> (low, high)
 *
 * values: contiguous float32; bins: 65536 writable int64, which are added to, and 64 more that stay 0. The interpreter's
 * lock is released.
 * Optional: trtkit.calib.counting does the same in NumPy, at several times the cost, where this was not compiled.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { BINS = 1 << 16, CHUNK = 1024, LANES = 64 };

/* Zeros, half of all values behind a Relu, are spread over lanes of their own: an increment of the same address waits
 * for the one before. */
static void count_values(const uint32_t *bits, Py_ssize_t size, int64_t *bins, int32_t *top, uint32_t *bottom)
{
    uint32_t places[CHUNK];
    for (Py_ssize_t start = 0; start < size; start += CHUNK) {
        Py_ssize_t length = size - start < CHUNK ? size - start : CHUNK;
        const uint32_t *chunk = bits + start;
        /* Among patterns, the largest signed integer is the largest positive value, and the largest unsigned one
         * the negative value of the largest magnitude: the loop becomes vector instructions. */
        int32_t most = *top;
        uint32_t least = *bottom;
        for (Py_ssize_t i = 0; i < length; i++) {
            most = (int32_t)chunk[i] > most ? (int32_t)chunk[i] : most;
            least = chunk[i] > least ? chunk[i] : least;
        }
        *top = most;
        *bottom = least;
        for (Py_ssize_t i = 0; i < length; i++) /* no branch to mispredict */
            places[i] = (chunk[i] >> 16) + (-(uint32_t)(chunk[i] == 0) & (BINS + (uint32_t)i % LANES));
        for (Py_ssize_t i = 0; i < length; i++)
            bins[places[i]]++;
    }
    for (int lane = 0; lane < LANES; lane++) {
        bins[0] += bins[BINS + lane];
        bins[BINS + lane] = 0;
    }
}

static PyObject *count(PyObject *self, PyObject *args)
{
    Py_buffer values, bins;
    if (!PyArg_ParseTuple(args, "y*w*", &values, &bins))
        return NULL;
    PyObject *result = NULL;
    if (values.len % 4 != 0 || values.len / 4 > UINT32_MAX || bins.len != (BINS + LANES) * (Py_ssize_t)sizeof(int64_t)) {
        PyErr_SetString(PyExc_ValueError, "count takes float32 values, and int64 bins of 65536 patterns and 64 lanes");
        goto done;
    }
    int32_t top = INT32_MIN; /* the pattern of -0.0: below every positive pattern */
    uint32_t bottom = 0;
    Py_BEGIN_ALLOW_THREADS
    count_values(values.buf, values.len / 4, bins.buf, &top, &bottom);
    Py_END_ALLOW_THREADS
    uint32_t high_bits = (uint32_t)top, low_bits = bottom;
    if (top < 0) { /* nothing positive: the negative value of the smallest magnitude is the largest; look for it */
        const uint32_t *bits = values.buf;
        high_bits = UINT32_MAX;
        for (Py_ssize_t i = 0; i < values.len / 4; i++)
            high_bits = bits[i] < high_bits ? bits[i] : high_bits;
    }
    if (bottom < 0x80000000u) { /* nothing negative: the smallest positive pattern */
        const uint32_t *bits = values.buf;
        low_bits = UINT32_MAX;
        for (Py_ssize_t i = 0; i < values.len / 4; i++)
            low_bits = bits[i] < low_bits ? bits[i] : low_bits;
    }
    float low, high;
    memcpy(&low, &low_bits, 4);
    memcpy(&high, &high_bits, 4);
    result = Py_BuildValue("(ff)", low, high);
done:
    PyBuffer_Release(&values);
    PyBuffer_Release(&bins);
    return result;
}

static PyMethodDef methods[] = {
    {"count", count, METH_VARARGS, "count(values, bins) -> (low, high)"},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_counting", NULL, -1, methods};

PyMODINIT_FUNC PyInit__counting(void)
{
    return PyModule_Create(&module);
}

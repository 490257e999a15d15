/* A CUDA driver with DEVICES devices (compile with -DDEVICES=n); without any, cuInit says CUDA_ERROR_NO_DEVICE. */
#include <stddef.h>
#include <string.h>

int cuInit(unsigned flags) { return DEVICES ? 0 : 100; }
int cuDeviceGetCount(int *count) { *count = DEVICES; return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = 40 + ordinal; return ordinal < DEVICES ? 0 : 101; }
int cuDeviceGetName(char *name, int length, int device) {
    if (device != 40) return 101;
    strncpy(name, "NVIDIA Test GPU", length);
    return 0;
}
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)24 << 30; return device == 40 ? 0 : 101; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (device != 40) return 101;
    *value = attribute == 75 ? 8 : attribute == 76 ? 9 : -1;
    return 0;
}
#ifndef WITHOUT_VERSION
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
#endif

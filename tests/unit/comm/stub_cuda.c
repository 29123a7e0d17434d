/* A libcuda.so.1 without a GPU: the functions that hpckit.comm.cuda calls, on the CPU.
 *
 * Device memory is a memfd mapped twice, as in hpckit.comm.stand_in: at its address without rights,
 * so that a host that touches it dies, and INSIDE above that, where copies, signals and kernels of
 * the "device" work. Everything enqueued runs at once. Kernels are run by a function that the test
 * registers (stub_launcher). What is called is counted, and any call can be told to fail.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
    INVALID_DEVICE = 101, INVALID_CONTEXT = 201, ALREADY_MAPPED = 208, UNSUPPORTED_PTX_VERSION = 222,
    INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600, ALREADY_REGISTERED = 712,
    NOT_REGISTERED = 713
};
#define FIRST 0x508000000000ull /* among those of stand-ins, for the twins of kernels */
#define INSIDE 0x100000000000ull
#define MANY 65536

/* -- what tests see and set */

static struct { const char *name; int calls, fails_at, code; } counted[64];
typedef int (*launcher)(const char *kernel, unsigned blocks, unsigned threads, void **arguments);
static launcher launch;

static int setting(const char *name, int otherwise) {
    const char *text = getenv(name);
    return text ? atoi(text) : otherwise;
}

static int entry(const char *name) {
    int i = 0;
    while (counted[i].name && strcmp(counted[i].name, name)) i++;
    if (!counted[i].name) counted[i].name = strdup(name);
    return i;
}

static int enter(const char *name) {
    int i = entry(name);
    const char *always = getenv("STUB_CUDA_FAIL"); /* the name of a function */
    if (always && !strcmp(always, name)) return INVALID_VALUE;
    return ++counted[i].calls == counted[i].fails_at ? counted[i].code : SUCCESS;
}
#define ENTER() do { int code = enter(__func__); if (code) return code; } while (0)

int stub_calls(const char *name) { return counted[entry(name)].calls; }
void stub_fail(const char *name, int after, int code) { /* the call after so many more */
    int i = entry(name);
    counted[i].fails_at = counted[i].calls + after + 1;
    counted[i].code = code;
}
void stub_launcher(launcher function) { launch = function; }

/* -- memory: what there is of each kind */

enum { DEVICE, OPENED, PINNED, REGISTERED, KINDS };
static struct { uint64_t address, bytes; int kind, file, used; } pieces[MANY];
static uint64_t next = FIRST;
static int made[KINDS], top;

int stub_pieces(int kind) { return made[kind]; }

static int find(uint64_t address, int inside) {
    for (int i = 0; i < top; i++)
        if (pieces[i].used && (inside ? address - pieces[i].address < pieces[i].bytes
                                      : address == pieces[i].address)) return i;
    return -1;
}

static void keep(uint64_t address, uint64_t bytes, int kind, int file) {
    int i = 0;
    while (pieces[i].used) i++;
    if (i >= MANY - 1) abort();
    if (i >= top) top = i + 1;
    pieces[i].address = address; pieces[i].bytes = bytes; pieces[i].kind = kind;
    pieces[i].file = file; pieces[i].used = 1;
    made[kind]++;
}

static int forget(uint64_t address, int kind) {
    int i = find(address, 0);
    if (i < 0 || pieces[i].kind != kind) return INVALID_VALUE;
    pieces[i].used = 0;
    made[kind]--;
    if (kind != REGISTERED) munmap((void *)address, pieces[i].bytes);
    if (kind <= OPENED) {
        munmap((void *)(address + INSIDE), pieces[i].bytes);
        close(pieces[i].file);
    }
    return SUCCESS;
}

static uint64_t mapped(int file, uint64_t bytes, int kind) {
    uint64_t size = (bytes + 4095) / 4096 * 4096, address = next;
    next += size + 4096; /* an address is never given again, and no two pieces touch */
    int flags = MAP_SHARED | MAP_FIXED_NOREPLACE;
    if (mmap((void *)address, size, PROT_NONE, flags, file, 0) == MAP_FAILED ||
        mmap((void *)(address + INSIDE), size, PROT_READ | PROT_WRITE, flags, file, 0) == MAP_FAILED)
        abort();
    keep(address, size, kind, file);
    return address;
}

static char *at(uint64_t address) {
    int i = find(address, 1);
    return (char *)(i >= 0 && pieces[i].kind <= OPENED ? address + INSIDE : address);
}

/* -- devices and contexts: that of device n is n + 1 */

static int ready;
static __thread uint64_t current;
#define CURRENT() do { if (!current) return INVALID_CONTEXT; } while (0)

int cuInit(unsigned flags) {
    ENTER();
    ready = 1;
    return setting("STUB_CUDA_DEVICES", 1) ? SUCCESS : NO_DEVICE;
}
int cuDriverGetVersion(int *version) { *version = setting("STUB_CUDA_DRIVER", 13000); return SUCCESS; }
int cuDeviceGetCount(int *count) {
    ENTER();
    *count = setting("STUB_CUDA_DEVICES", 1);
    return ready ? SUCCESS : NOT_INITIALIZED;
}
int cuDeviceGet(int *device, int number) {
    ENTER();
    *device = number;
    return number < setting("STUB_CUDA_DEVICES", 1) ? SUCCESS : INVALID_DEVICE;
}
int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "Stub %d", device);
    return SUCCESS;
}
int cuDeviceGetUuid(char *uuid, int device) {
    for (int i = 0; i < 16; i++) uuid[i] = i;
    uuid[15] = device;
    return SUCCESS;
}
int cuDeviceTotalMem(size_t *bytes, int device) { *bytes = 1ull << 30; return SUCCESS; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 0 : 1; /* compute capability 8.0 */
    return SUCCESS;
}
int cuDevicePrimaryCtxRetain(uint64_t *context, int device) { ENTER(); *context = device + 1; return SUCCESS; }
int cuCtxGetCurrent(uint64_t *context) { ENTER(); *context = current; return SUCCESS; }
int cuCtxSetCurrent(uint64_t context) { ENTER(); current = context; return SUCCESS; }
int cuGetErrorName(int code, const char **text) {
    static char name[32];
    snprintf(name, sizeof name, "CUDA_ERROR_STUB_%d", code);
    *text = name;
    return SUCCESS;
}
int cuGetErrorString(int code, const char **text) { *text = "as the stub was told"; return SUCCESS; }

int cuMemGetInfo(size_t *available, size_t *total) {
    ENTER(); CURRENT();
    *total = 1ull << 30;
    *available = *total;
    for (int i = 0; i < top; i++)
        if (pieces[i].used && pieces[i].kind == DEVICE) *available -= pieces[i].bytes;
    return SUCCESS;
}
int cuMemAlloc(uint64_t *address, size_t bytes) {
    ENTER(); CURRENT();
    size_t available, total;
    cuMemGetInfo(&available, &total);
    if (!bytes) return INVALID_VALUE;
    if (bytes > available) return OUT_OF_MEMORY;
    int file = memfd_create("stub", 0);
    if (ftruncate(file, bytes)) return OUT_OF_MEMORY;
    *address = mapped(file, bytes, DEVICE);
    return SUCCESS;
}
int cuMemFree(uint64_t address) { ENTER(); CURRENT(); return forget(address, DEVICE); }
int cuMemHostAlloc(void **address, size_t bytes, unsigned flags) {
    ENTER(); CURRENT();
    if (!bytes) return INVALID_VALUE;
    *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    keep((uint64_t)*address, bytes, PINNED, -1);
    return SUCCESS;
}
int cuMemFreeHost(void *address) {
    ENTER(); CURRENT();
    return forget((uint64_t)address, PINNED);
}
int cuMemHostRegister(void *address, size_t bytes, unsigned flags) {
    ENTER(); CURRENT();
    if (!bytes) return INVALID_VALUE;
    if (find((uint64_t)address, 1) >= 0) return ALREADY_REGISTERED;
    keep((uint64_t)address, bytes, REGISTERED, -1);
    return SUCCESS;
}
int cuMemHostUnregister(void *address) {
    ENTER(); CURRENT();
    return forget((uint64_t)address, REGISTERED) ? NOT_REGISTERED : SUCCESS;
}
int cuMemHostGetDevicePointer(uint64_t *address, void *host, unsigned flags) {
    ENTER();
    *address = (uint64_t)host;
    return find(*address, 1) < 0 ? INVALID_VALUE : SUCCESS;
}
int cuPointerGetAttribute(void *value, int attribute, uint64_t address) {
    ENTER();
    int i = find(address, 1);
    if (i < 0) return INVALID_VALUE;
    *(int *)value = attribute == 2 ? (pieces[i].kind <= OPENED ? 2 : 1) : 0; /* type; ordinal */
    return SUCCESS;
}

/* -- memory of other processes */

struct handle { int process, file; uint64_t address, bytes; char rest[40]; };
int cuIpcGetMemHandle(struct handle *handle, uint64_t address) {
    ENTER(); CURRENT();
    int i = find(address, 0);
    if (i < 0 || pieces[i].kind != DEVICE) return INVALID_VALUE;
    *handle = (struct handle){getpid(), pieces[i].file, address, pieces[i].bytes, {0}};
    return SUCCESS;
}
int cuIpcOpenMemHandle(uint64_t *address, struct handle handle, unsigned flags) {
    ENTER(); CURRENT();
    char path[64];
    if (handle.process == getpid() || flags != 1) return INVALID_CONTEXT;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", handle.process, handle.file);
    int file = open(path, O_RDWR | O_CLOEXEC);
    if (file < 0) return INVALID_VALUE;
    *address = mapped(file, handle.bytes, OPENED);
    return SUCCESS;
}
int cuIpcCloseMemHandle(uint64_t address) { ENTER(); CURRENT(); return forget(address, OPENED); }

/* -- streams and events: all is done at once */

static int streams, events;
int stub_events(void) { return events; }
int cuStreamCreate(uint64_t *stream, unsigned flags) { ENTER(); CURRENT(); *stream = 16 + ++streams; return SUCCESS; }
int cuStreamSynchronize(uint64_t stream) { ENTER(); CURRENT(); return SUCCESS; }
int cuStreamWaitEvent(uint64_t stream, void *event, unsigned flags) { ENTER(); CURRENT(); return event ? SUCCESS : INVALID_HANDLE; }
int cuEventCreate(void **event, unsigned flags) { ENTER(); CURRENT(); events++; *event = malloc(1); return SUCCESS; }
int cuEventRecord(void *event, uint64_t stream) { ENTER(); CURRENT(); return event ? SUCCESS : INVALID_HANDLE; }
int cuEventQuery(void *event) { ENTER(); CURRENT(); return SUCCESS; }
int cuEventSynchronize(void *event) { ENTER(); CURRENT(); return SUCCESS; }
int cuEventDestroy(void *event) { ENTER(); CURRENT(); events--; free(event); return SUCCESS; }
int cuMemcpyAsync(uint64_t target, uint64_t source, size_t bytes, uint64_t stream) {
    ENTER(); CURRENT();
    memmove(at(target), at(source), bytes);
    return SUCCESS;
}

struct signal { uint32_t kind; uint64_t address; uint64_t value; uint32_t flags; uint64_t alias, rest; };
int cuStreamBatchMemOp(uint64_t stream, unsigned count, struct signal *signals, unsigned flags) {
    ENTER(); CURRENT();
    for (unsigned i = 0; i < count; i++) {
        volatile uint32_t *counter = (uint32_t *)at(signals[i].address);
        if (find(signals[i].address, 1) < 0 || signals[i].flags) return INVALID_VALUE;
        if (signals[i].kind == 2) __atomic_store_n(counter, signals[i].value, __ATOMIC_SEQ_CST);
        else while ((int32_t)(__atomic_load_n(counter, __ATOMIC_SEQ_CST) - (uint32_t)signals[i].value) < 0)
            sched_yield();
    }
    return SUCCESS;
}

/* -- kernels: a module is its text, a kernel its name */

int cuModuleLoadDataEx(char **module, const char *text, unsigned options, void *names, void *values) {
    ENTER(); CURRENT();
    if (!strstr(text, ".version")) return INVALID_VALUE;
    const char *version = strstr(text, ".version") + 8;
    if (atof(version) >= 9 && setting("STUB_CUDA_DRIVER", 13000) < 13000) return UNSUPPORTED_PTX_VERSION;
    *module = strdup(text);
    return SUCCESS;
}
int cuModuleLoadData(char **module, const char *text) { return cuModuleLoadDataEx(module, text, 0, 0, 0); }
int cuModuleGetFunction(char **kernel, char *module, const char *name) {
    ENTER(); CURRENT();
    char words[256];
    snprintf(words, sizeof words, ".entry %s(", name);
    *kernel = strdup(name);
    return strstr(module, words) ? SUCCESS : NOT_FOUND;
}
int cuLaunchKernel(char *kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, uint64_t stream, void **arguments, void **extra) {
    ENTER(); CURRENT();
    if (!x || y != 1 || z != 1) return INVALID_VALUE;
    return launch ? launch(kernel, x, threads, arguments) : SUCCESS;
}

/* -- how cuda.bindings finds them */

#define KNOWN(name) {#name, (void *)name}
static const struct { const char *name; void *function; } known[] = {
    KNOWN(cuInit), KNOWN(cuDriverGetVersion), KNOWN(cuDeviceGetCount), KNOWN(cuDeviceGet),
    KNOWN(cuDeviceGetName), KNOWN(cuDeviceGetUuid), KNOWN(cuDeviceTotalMem),
    KNOWN(cuDeviceGetAttribute), KNOWN(cuDevicePrimaryCtxRetain), KNOWN(cuCtxGetCurrent),
    KNOWN(cuCtxSetCurrent), KNOWN(cuGetErrorName), KNOWN(cuGetErrorString), KNOWN(cuMemGetInfo),
    KNOWN(cuMemAlloc), KNOWN(cuMemFree), KNOWN(cuMemHostAlloc), KNOWN(cuMemFreeHost),
    KNOWN(cuMemHostRegister), KNOWN(cuMemHostUnregister), KNOWN(cuMemHostGetDevicePointer),
    KNOWN(cuPointerGetAttribute), KNOWN(cuIpcGetMemHandle), KNOWN(cuIpcOpenMemHandle),
    KNOWN(cuIpcCloseMemHandle), KNOWN(cuStreamCreate), KNOWN(cuStreamSynchronize),
    KNOWN(cuStreamWaitEvent), KNOWN(cuEventCreate), KNOWN(cuEventRecord), KNOWN(cuEventQuery),
    KNOWN(cuEventSynchronize), KNOWN(cuEventDestroy), KNOWN(cuMemcpyAsync),
    KNOWN(cuStreamBatchMemOp), KNOWN(cuModuleLoadData), KNOWN(cuModuleLoadDataEx),
    KNOWN(cuModuleGetFunction), KNOWN(cuLaunchKernel),
};
int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    *function = NULL;
    for (unsigned i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) *function = known[i].function;
    if (status) *status = *function ? 0 : 1;
    return *function ? SUCCESS : NOT_FOUND;
}

/* A library that answers as NVML does, from a text file named by FAKE_NVML. One answer a line:
 *
 *     <GPU or *> <function>[.<part>] <number, word, or: error N, crash, hang>
 *
 * The last line that fits counts. Without a line, a healthy data-centre GPU answers. Built with -DOLD, functions that
 * drivers of 2021 did not have are left out.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned int number;
typedef unsigned long long counter;
typedef struct { number index; } device;

enum { NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7 };
static device devices[16];

/* Writes the answer for this GPU (-1: for none), and returns whether there is one. */
static int answer(int gpu, const char *name, char *text) {
    FILE *file = fopen(getenv("FAKE_NVML") ? getenv("FAKE_NVML") : "/dev/null", "r");
    char line[512], who[32], what[128], said[256];
    int found = 0;
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "%31s %127s %255[^\n]", who, what, said) != 3 || strcmp(what, name)) continue;
        if (strcmp(who, "*") && atoi(who) != gpu) continue;
        strcpy(text, said);
        found = 1;
    }
    if (file) fclose(file);
    return found;
}

static long long value(int gpu, const char *name, long long otherwise) {
    char text[256];
    return answer(gpu, name, text) ? strtoll(text, NULL, 0) : otherwise;
}

/* What a function returns; crashes or hangs if it shall. */
static int result(int gpu, const char *name, int otherwise) {
    char text[256];
    if (!answer(gpu, name, text)) return otherwise;
    if (!strcmp(text, "crash")) raise(SIGSEGV);
    while (!strcmp(text, "hang")) pause();
    return strncmp(text, "error ", 6) ? 0 : atoi(text + 6);
}

static long long part(int gpu, const char *name, const char *suffix, long long otherwise) {
    char full[160];
    snprintf(full, sizeof full, "%s.%s", name, suffix);
    return value(gpu, full, otherwise);
}

static void words(int gpu, const char *name, const char *otherwise, char *out, number size) {
    char text[256];
    snprintf(out, size, "%s", answer(gpu, name, text) ? text : otherwise);
}

#define FAILS(gpu) do { int code = result(gpu, __func__, 0); if (code) return code; } while (0)
#define UNLESS_SAID(gpu) do { int code = result(gpu, __func__, NOT_SUPPORTED); if (code) return code; } while (0)
#define NUMBER(function, healthy) int function(device *d, number *out) { \
    FAILS(d->index); *out = (number)value(d->index, __func__, healthy); return 0; }
#define OPTIONAL(function) int function(device *d, number *out) { \
    UNLESS_SAID(d->index); *out = (number)value(d->index, __func__, 0); return 0; }
#define TEXT(function, healthy) int function(device *d, char *out, number size) { \
    FAILS(d->index); words(d->index, __func__, healthy, out, size); return 0; }
#define PART(suffix, healthy) part(d->index, __func__, suffix, healthy)

int nvmlInitWithFlags(number flags) {
    (void)flags;
    FAILS(-1);
    for (int i = 0; i < 16; i++) devices[i].index = (number)i;
    return 0;
}
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) {
    switch (code) {
        case 3: return "Not Supported";
        case 4: return "Insufficient Permissions";
        case 9: return "Driver Not Loaded";
        case 13: return "Function Not Found";
        case 14: return "infoROM is corrupted";
        case 15: return "GPU is lost";
        case 16: return "GPU requires reset";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}
int nvmlSystemGetDriverVersion(char *out, number size) { FAILS(-1); words(-1, __func__, "570.86.10", out, size); return 0; }
int nvmlSystemGetNVMLVersion(char *out, number size) { FAILS(-1); words(-1, __func__, "12.570.86.10", out, size); return 0; }
int nvmlSystemGetCudaDriverVersion_v2(int *out) { FAILS(-1); *out = 12080; return 0; }
int nvmlSystemGetProcessName(number pid, char *out, number size) { (void)pid; FAILS(-1); words(-1, __func__, "/usr/bin/other --flag", out, size); return 0; }
int nvmlDeviceGetCount_v2(number *out) { FAILS(-1); *out = (number)value(-1, __func__, 2); return 0; }
int nvmlDeviceGetHandleByIndex_v2(number index, device **out) { FAILS((int)index); *out = &devices[index]; return 0; }

TEXT(nvmlDeviceGetName, "NVIDIA A100-SXM4-80GB")
TEXT(nvmlDeviceGetUUID, "GPU-00000000-0000-0000-0000-000000000000")
TEXT(nvmlDeviceGetVbiosVersion, "92.00.45.00.01")
struct pci { char legacy[16]; number domain, bus, slot, id, subsystem; char address[32]; };
int nvmlDeviceGetPciInfo_v3(device *d, struct pci *out) {
    FAILS(d->index);
    memset(out, 0, sizeof *out);
    snprintf(out->address, 32, "00000000:%02X:00.0", 1 + d->index);
    return 0;
}
struct memory { counter total, free, used; };
struct memory_v2 { number version; counter total, reserved, free, used; };
static void memory(device *d, counter *total, counter *used) {
    *total = (counter)part(d->index, "nvmlDeviceGetMemoryInfo", "total", 80LL << 30);
    *used = (counter)part(d->index, "nvmlDeviceGetMemoryInfo", "used", 600LL << 20);
}
int nvmlDeviceGetMemoryInfo(device *d, struct memory *out) {
    FAILS(d->index); memory(d, &out->total, &out->used); out->free = out->total - out->used; return 0;
}
#ifndef OLD
int nvmlDeviceGetMemoryInfo_v2(device *d, struct memory_v2 *out) {
    FAILS(d->index); memory(d, &out->total, &out->used); out->reserved = 500LL << 20; out->free = 0; return 0;
}
#endif
int nvmlDeviceGetTemperature(device *d, int sensor, number *out) { (void)sensor; FAILS(d->index); *out = (number)value(d->index, __func__, 40); return 0; }
int nvmlDeviceGetTemperatureThreshold(device *d, int kind, number *out) {
    static const char *kinds[] = {"shutdown", "slowdown", "memory"};
    static const int healthy[] = {95, 90, 95};
    FAILS(d->index);
    if (kind > 2) return NOT_SUPPORTED;
    *out = (number)PART(kinds[kind], healthy[kind]);
    return 0;
}
OPTIONAL(nvmlDeviceGetFanSpeed)
struct utilization { number gpu, memory; };
int nvmlDeviceGetUtilizationRates(device *d, struct utilization *out) {
    FAILS(d->index); out->gpu = (number)value(d->index, __func__, 0); out->memory = 0; return 0;
}
NUMBER(nvmlDeviceGetPerformanceState, 0)
static int clock_of(device *d, const char *name, int kind, number *out, int sm) {
    *out = (number)(kind == 2 ? part(d->index, name, "memory", 1593) : value(d->index, name, sm));
    return 0;
}
int nvmlDeviceGetClockInfo(device *d, int kind, number *out) { FAILS(d->index); return clock_of(d, __func__, kind, out, 210); }
int nvmlDeviceGetMaxClockInfo(device *d, int kind, number *out) { FAILS(d->index); return clock_of(d, __func__, kind, out, 1410); }
int nvmlDeviceGetApplicationsClock(device *d, int kind, number *out) { FAILS(d->index); return clock_of(d, __func__, kind, out, 1410); }
int nvmlDeviceGetDefaultApplicationsClock(device *d, int kind, number *out) { FAILS(d->index); return clock_of(d, __func__, kind, out, 1410); }
#ifndef OLD
int nvmlDeviceGetCurrentClocksEventReasons(device *d, counter *out) { FAILS(d->index); *out = (counter)value(d->index, __func__, 1); return 0; }
#endif
int nvmlDeviceGetCurrentClocksThrottleReasons(device *d, counter *out) { FAILS(d->index); *out = (counter)value(d->index, __func__, 1); return 0; }
NUMBER(nvmlDeviceGetPowerUsage, 60000)
NUMBER(nvmlDeviceGetPowerManagementLimit, 400000)
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, 400000)
NUMBER(nvmlDeviceGetEnforcedPowerLimit, 400000)
NUMBER(nvmlDeviceGetPowerSource, 0)
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, 16)
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, 16)
NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, 4)
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, 4)
NUMBER(nvmlDeviceGetPcieReplayCounter, 0)
int nvmlDeviceGetBAR1MemoryInfo(device *d, struct memory *out) {
    FAILS(d->index); out->total = (counter)value(d->index, __func__, 128LL << 30); out->used = 0; out->free = out->total; return 0;
}
int nvmlDeviceGetEccMode(device *d, number *now, number *pending) {
    FAILS(d->index); *now = (number)PART("now", 1); *pending = (number)PART("pending", *now); return 0;
}
NUMBER(nvmlDeviceGetDefaultEccMode, 1)
int nvmlDeviceGetTotalEccErrors(device *d, int kind, int life, counter *out) {
    static const char *parts[] = {"corrected", "corrected_ever", "uncorrected", "uncorrected_ever"};
    FAILS(d->index); *out = (counter)PART(parts[2 * kind + life], 0); return 0;
}
struct sram { number version; counter ever_parity, ever_secded, ever_corrected, parity, secded, corrected, buckets[5]; number exceeded; };
#ifndef OLD
int nvmlDeviceGetSramEccErrorStatus(device *d, struct sram *out) {
    FAILS(d->index); memset(out, 0, sizeof *out); out->ever_parity = 3; out->secded = (counter)PART("secded", 0);
    out->exceeded = (number)PART("exceeded", 0); return 0;
}
#endif
#ifndef WITHOUT_ROWS
int nvmlDeviceGetRemappedRows(device *d, number *corrected, number *uncorrected, number *pending, number *failed) {
    FAILS(d->index); *corrected = 0; *uncorrected = (number)PART("uncorrected", 0);
    *pending = (number)PART("pending", 0); *failed = (number)PART("failed", 0); return 0;
}
#endif
struct histogram { number full, high, partial, low, none; };
int nvmlDeviceGetRowRemapperHistogram(device *d, struct histogram *out) {
    FAILS(d->index); memset(out, 0, sizeof *out); out->full = 640; out->none = (number)PART("none", 0); return 0;
}
int nvmlDeviceGetRetiredPages(device *d, int cause, number *count, counter *pages) {
    UNLESS_SAID(d->index);
    number found = (number)PART(cause ? "double" : "single", 0);
    if (!pages || *count < found) { *count = found; return found ? TOO_SMALL : 0; }
    for (number i = 0; i < found; i++) pages[i] = i;
    *count = found;
    return 0;
}
OPTIONAL(nvmlDeviceGetRetiredPagesPendingStatus)
struct repair { number version, channel, tpc; };
#ifndef OLD
int nvmlDeviceGetRepairStatus(device *d, struct repair *out) { FAILS(d->index); out->channel = (number)PART("channel", 0); out->tpc = 0; return 0; }
#endif
int nvmlDeviceGetMigMode(device *d, number *now, number *pending) {
    FAILS(d->index); *now = (number)PART("now", 0); *pending = (number)PART("pending", *now); return 0;
}
NUMBER(nvmlDeviceGetMaxMigDeviceCount, 7)
int nvmlDeviceGetMigDeviceHandleByIndex(device *d, number index, device **out) {
    if (index >= (number)value(d->index, __func__, 0)) return NOT_FOUND;
    *out = d;
    return 0;
}
NUMBER(nvmlDeviceGetPersistenceMode, 1)
NUMBER(nvmlDeviceGetComputeMode, 0)
struct process { number pid; counter memory; number instance, compute; };
static int process(device *d, const char *name, number *count, struct process *out) {
    long long pid = part(d->index, name, "pid", 0);
    if (!pid) { *count = 0; return 0; }
    if (!out) { *count = 1; return TOO_SMALL; }
    *out = (struct process){(number)pid, (counter)part(d->index, name, "memory", 0), -1, -1};
    *count = 1;
    return 0;
}
#ifndef OLD
int nvmlDeviceGetComputeRunningProcesses_v3(device *d, number *count, struct process *out) { return process(d, "processes", count, out); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(device *d, number *count, struct process *out) { return process(d, "graphics", count, out); }
#endif
int nvmlDeviceGetComputeRunningProcesses_v2(device *d, number *count, struct process *out) { return process(d, "processes", count, out); }
int nvmlDeviceGetGraphicsRunningProcesses_v2(device *d, number *count, struct process *out) { return process(d, "graphics", count, out); }
NUMBER(nvmlDeviceGetDisplayActive, 0)
NUMBER(nvmlDeviceGetBrand, 14)
NUMBER(nvmlDeviceGetVirtualizationMode, 0)
struct feature { number code, state; char info[128], product[128]; number enabled; number expiry[5]; };
struct features { int supported; number count; struct feature list[3]; };
int nvmlDeviceGetGridLicensableFeatures_v4(device *d, struct features *out) {
    FAILS(d->index); memset(out, 0, sizeof *out); out->supported = 1; out->count = 1;
    strcpy(out->list[0].product, "NVIDIA RTX Virtual Workstation"); out->list[0].enabled = (number)value(d->index, __func__, 1);
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(device *d, int *major, int *minor) { (void)d; *major = 8; *minor = 0; return 0; }
#ifndef OLD
int nvmlDeviceGetGspFirmwareMode(device *d, number *on, number *usual) { (void)d; *on = *usual = 1; return 0; }
#endif
NUMBER(nvmlDeviceGetAccountingMode, 0)
NUMBER(nvmlDeviceGetMinorNumber, 0)
struct fabric { unsigned char cluster[16]; int status; number clique; unsigned char state; };
struct fabric_v { number version; unsigned char cluster[16]; int status; number clique; unsigned char state; number health; unsigned char summary; };
#ifdef OLD
int nvmlDeviceGetGpuFabricInfo(device *d, struct fabric *out) {
    FAILS(d->index); memset(out, 0, sizeof *out); out->state = (unsigned char)PART("state", 3); return 0;
}
#else
int nvmlDeviceGetGpuFabricInfoV(device *d, struct fabric_v *out) {
    FAILS(d->index);
    out->state = (unsigned char)PART("state", 3); out->status = (int)PART("status", 0);
    out->health = (number)PART("health", 0xaa); out->summary = (unsigned char)PART("summary", 1);
    return 0;
}
#endif
int nvmlDeviceGetNvLinkState(device *d, number link, number *out) {
    char name[16];
    FAILS(d->index);
    if (link >= (number)PART("count", 12)) return 2;
    snprintf(name, sizeof name, "%u", link);
    *out = (number)PART(name, PART("all", 1));
    return 0;
}
int nvmlDeviceGetNvLinkErrorCounter(device *d, number link, int kind, counter *out) {
    static const char *kinds[] = {"replay", "recovery", "flit", "data"};
    FAILS(d->index); *out = link ? 0 : (counter)PART(kinds[kind], 0); return 0;
}
int nvmlDeviceGetP2PStatus(device *d, device *other, int kind, number *out) {
    (void)other; (void)kind; FAILS(d->index); *out = (number)value(d->index, __func__, 0); return 0;
}
struct field { number id, scope; long long when, late; int type, result; union { counter whole; double real; } value; };
int nvmlDeviceGetFieldValues(device *d, int count, struct field *out) {
    FAILS(d->index);
    for (int i = 0; i < count; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", out[i].id);
        out[i].type = 3;
        out[i].value.whole = (counter)PART(name, out[i].id == 82 ? 50 : 0);
        out[i].result = 0;
    }
    return 0;
}
int nvmlDeviceValidateInforom(device *d) { FAILS(d->index); return 0; }

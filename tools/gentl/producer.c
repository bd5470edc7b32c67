/* The GenTL entry points: one system, one interface, a camera per folder beside the library. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "camera.h"
#include "gentl.h"

/* Modules of a camera are told apart by where in this struct their handle points. */
typedef struct {
    char device, remote, stream, event;
    Camera camera;
} Modules;

static const uint64_t XML_AT = 0x100000;
static char tl_module, if_module;
static Modules modules[MAX_CAMERAS];
static int camera_count;
static bool is_initialised;
static __thread int32_t last_error;
static char library_path[512];

pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
pthread_cond_t changed;

#define DO(expression) \
    pthread_mutex_lock(&lock); \
    const int32_t result_ = is_initialised ? (expression) : GC_ERR_NOT_INITIALIZED; \
    pthread_mutex_unlock(&lock); \
    return last_error = result_

/* ---- answers -------------------------------------------------------------------------------- */

static int32_t give(int32_t *type, int32_t is, void *to, size_t *size, const void *from,
                    size_t bytes) {
    if (!size) return GC_ERR_INVALID_PARAMETER;
    if (type) *type = is;
    const size_t room = *size;
    *size = bytes;
    if (!to) return GC_ERR_SUCCESS;
    if (room < bytes) return GC_ERR_BUFFER_TOO_SMALL;
    memcpy(to, from, bytes);
    return GC_ERR_SUCCESS;
}

#define GIVE(is, kind, value) \
    give(type, is, to, size, &(kind){(kind)(value)}, sizeof(kind))
#define GIVE_TEXT(text) give(type, INFO_DATATYPE_STRING, to, size, text, strlen(text) + 1)
#define GIVE_U64(value) GIVE(INFO_DATATYPE_UINT64, uint64_t, value)
#define GIVE_SIZE(value) GIVE(INFO_DATATYPE_SIZET, size_t, value)
#define GIVE_I32(value) GIVE(INFO_DATATYPE_INT32, int32_t, value)
#define GIVE_BOOL(value) GIVE(INFO_DATATYPE_BOOL8, bool8_t, value)
#define ANSWER int32_t *type, void *to, size_t *size

static Modules *of(void *handle) {
    for (int i = 0; i < camera_count; i++)
        if ((char *)handle >= (char *)&modules[i] && (char *)handle < (char *)&modules[i + 1])
            return &modules[i];
    return NULL;
}

static Camera *stream_of(void *handle) {
    Modules *found = of(handle);
    return found && handle == &found->stream ? &found->camera : NULL;
}

static Camera *device_named(const char *id) {
    for (int i = 0; id && i < camera_count; i++)
        if (!strcmp(modules[i].camera.name, id)) return &modules[i].camera;
    return NULL;
}

/* ---- library, ports ------------------------------------------------------------------------- */

GC_API GCInitLib(void) {
    pthread_mutex_lock(&lock);
    int32_t result = is_initialised ? GC_ERR_RESOURCE_IN_USE : GC_ERR_SUCCESS;
    Dl_info found;
    if (!is_initialised && dladdr(&tl_module, &found)) {
        pthread_condattr_t monotonic;
        pthread_condattr_init(&monotonic);
        pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
        pthread_cond_init(&changed, &monotonic);
        snprintf(library_path, sizeof library_path, "%s", found.dli_fname);
        char copy[512];
        snprintf(copy, sizeof copy, "%s", library_path);
        static Camera cameras[MAX_CAMERAS];
        camera_count = find_cameras(dirname(copy), cameras, MAX_CAMERAS);
        for (int i = 0; i < camera_count; i++) modules[i].camera = cameras[i];
        is_initialised = true;
    }
    pthread_mutex_unlock(&lock);
    return last_error = result;
}

GC_API GCCloseLib(void) {
    pthread_mutex_lock(&lock);
    for (int i = 0; i < camera_count; i++) {
        if (modules[i].camera.is_open) camera_close(&modules[i].camera);
        free_pictures(&modules[i].camera);
    }
    camera_count = 0;
    const bool was = is_initialised;
    is_initialised = false;
    pthread_mutex_unlock(&lock);
    return last_error = was ? GC_ERR_SUCCESS : GC_ERR_NOT_INITIALIZED;
}

GC_API GCGetLastError(int32_t *code, char *text, size_t *size) {
    if (code) *code = last_error;
    char sentence[48];
    snprintf(sentence, sizeof sentence, "folder camera: error %d", (int)last_error);
    return give(NULL, 0, text, size, sentence, strlen(sentence) + 1);
}

static int32_t tl_info(int32_t what, ANSWER) {
    switch (what) {
    case TL_ID: case TL_NAME: return GIVE_TEXT("folder.cti");
    case TL_VENDOR: return GIVE_TEXT("inspectd");
    case TL_MODEL: return GIVE_TEXT("Folder camera");
    case TL_VERSION: return GIVE_TEXT("1.0");
    case TL_TLTYPE: return GIVE_TEXT("Custom");
    case TL_PATHNAME: return GIVE_TEXT(library_path);
    case TL_DISPLAYNAME: return GIVE_TEXT("Folders of pictures as cameras");
    case TL_CHAR_ENCODING: return GIVE_I32(0);
    case TL_GENTL_VER_MAJOR: return GIVE(6, uint32_t, 1);
    case TL_GENTL_VER_MINOR: return GIVE(6, uint32_t, 5);
    default: return GC_ERR_NOT_IMPLEMENTED;
    }
}

GC_API GCGetInfo(int32_t what, ANSWER) { return last_error = tl_info(what, type, to, size); }

static const char *xml_of(void *port) {
    const Modules *found = of(port);
    if (found && port == &found->remote) return camera_xml();
    if (found && port == &found->stream) return stream_xml();
    if (found || port == &tl_module || port == &if_module) return module_xml();
    return NULL;
}

static int32_t port_info(void *port, int32_t what, ANSWER) {
    Modules *found = of(port);
    const char *kind = port == &tl_module ? "TLSystem" : "TLInterface";
    if (found)
        kind = port == &found->remote ? "Device"
               : port == &found->stream ? "TLDataStream" : "TLDevice";
    if (!xml_of(port)) return GC_ERR_INVALID_HANDLE;
    switch (what) {
    case PORT_ID: return GIVE_TEXT(found ? found->camera.name : "folder");
    case PORT_VENDOR: return GIVE_TEXT("inspectd");
    case PORT_MODEL: return GIVE_TEXT("Folder camera");
    case PORT_TLTYPE: return GIVE_TEXT("Custom");
    case PORT_MODULE: return GIVE_TEXT(kind);
    case PORT_VERSION: return GIVE_TEXT("1.0");
    case PORT_PORTNAME: return GIVE_TEXT("Device");
    case PORT_LITTLE_ENDIAN: case PORT_ACCESS_READ: case PORT_ACCESS_WRITE: return GIVE_BOOL(1);
    case PORT_BIG_ENDIAN: case PORT_ACCESS_NA: case PORT_ACCESS_NI: return GIVE_BOOL(0);
    default: return GC_ERR_NOT_IMPLEMENTED;
    }
}

GC_API GCGetPortInfo(PORT_HANDLE port, int32_t what, ANSWER) {
    DO(port_info(port, what, type, to, size));
}

static int32_t read_port(void *port, uint64_t address, void *to, size_t size) {
    Modules *found = of(port);
    const char *xml = xml_of(port);
    if (!xml) return GC_ERR_INVALID_HANDLE;
    if (address >= XML_AT) {
        const size_t length = strlen(xml), from = address - XML_AT;
        if (from > length || size > length - from) return GC_ERR_INVALID_ADDRESS;
        memcpy(to, xml + from, size);
        return GC_ERR_SUCCESS;
    }
    if (found && port == &found->remote) return camera_read(&found->camera, address, to, size);
    if (!found || port != &found->stream || address || size != 8) return GC_ERR_INVALID_ADDRESS;
    memcpy(to, &found->camera.handling, 8);
    return GC_ERR_SUCCESS;
}

static int32_t write_port(void *port, uint64_t address, const void *from, size_t size) {
    Modules *found = of(port);
    if (!xml_of(port)) return GC_ERR_INVALID_HANDLE;
    if (found && port == &found->remote) return camera_write(&found->camera, address, from, size);
    if (!found || port != &found->stream || address || size != 8) return GC_ERR_INVALID_ADDRESS;
    memcpy(&found->camera.handling, from, 8);
    return GC_ERR_SUCCESS;
}

GC_API GCReadPort(PORT_HANDLE port, uint64_t address, void *to, size_t *size) {
    DO(read_port(port, address, to, *size));
}

GC_API GCWritePort(PORT_HANDLE port, uint64_t address, const void *from, size_t *size) {
    DO(write_port(port, address, from, *size));
}

static int32_t stacked(void *port, PortEntry *entries, size_t *count, bool is_write) {
    for (size_t i = 0; i < *count; i++) {
        PortEntry *entry = &entries[i];
        const int32_t result = is_write ? write_port(port, entry->address, entry->buffer, entry->size)
                                        : read_port(port, entry->address, entry->buffer, entry->size);
        if (result) {
            *count = i;
            return result;
        }
    }
    return GC_ERR_SUCCESS;
}

GC_API GCReadPortStacked(PORT_HANDLE port, PortEntry *entries, size_t *count) {
    DO(stacked(port, entries, count, false));
}

GC_API GCWritePortStacked(PORT_HANDLE port, PortEntry *entries, size_t *count) {
    DO(stacked(port, entries, count, true));
}

static int32_t url_info(void *port, int32_t what, ANSWER) {
    const char *xml = xml_of(port);
    if (!xml) return GC_ERR_INVALID_HANDLE;
    char url[128];
    snprintf(url, sizeof url, "local:folder.xml;%llX;%zX", (unsigned long long)XML_AT, strlen(xml));
    switch (what) {
    case URL_URL: return GIVE_TEXT(url);
    case URL_SCHEMA_VER_MAJOR: case URL_SCHEMA_VER_MINOR: return GIVE_I32(1);
    case URL_FILE_VER_MAJOR: return GIVE_I32(1);
    case URL_FILE_VER_MINOR: case URL_FILE_VER_SUBMINOR: return GIVE_I32(0);
    case URL_FILE_REGISTER_ADDRESS: return GIVE_U64(XML_AT);
    case URL_FILE_SIZE: return GIVE_U64(strlen(xml));
    case URL_SCHEME: return GIVE_I32(0);
    case URL_FILENAME: return GIVE_TEXT("folder.xml");
    default: return GC_ERR_NOT_AVAILABLE;
    }
}

GC_API GCGetNumPortURLs(PORT_HANDLE port, uint32_t *count) {
    *count = 1;
    DO(xml_of(port) ? GC_ERR_SUCCESS : GC_ERR_INVALID_HANDLE);
}

GC_API GCGetPortURLInfo(PORT_HANDLE port, uint32_t index, int32_t what, ANSWER) {
    DO(index ? GC_ERR_INVALID_INDEX : url_info(port, what, type, to, size));
}

GC_API GCGetPortURL(PORT_HANDLE port, char *to, size_t *size) {
    int32_t ignored;
    DO(url_info(port, URL_URL, &ignored, to, size));
}

/* ---- system and interface ------------------------------------------------------------------- */

#define TEXT(text) give(NULL, 0, to, size, text, strlen(text) + 1)

GC_API TLOpen(TL_HANDLE *tl) {
    *tl = &tl_module;
    DO(GC_ERR_SUCCESS);
}
GC_API TLClose(TL_HANDLE tl) { DO(tl == &tl_module ? GC_ERR_SUCCESS : GC_ERR_INVALID_HANDLE); }
GC_API TLGetInfo(TL_HANDLE tl, int32_t what, ANSWER) {
    (void)tl;
    DO(tl_info(what, type, to, size));
}
GC_API TLGetNumInterfaces(TL_HANDLE tl, uint32_t *count) {
    (void)tl;
    *count = 1;
    DO(GC_ERR_SUCCESS);
}
GC_API TLGetInterfaceID(TL_HANDLE tl, uint32_t index, char *to, size_t *size) {
    (void)tl;
    DO(index ? GC_ERR_INVALID_INDEX : TEXT("folders"));
}
GC_API TLGetInterfaceInfo(TL_HANDLE tl, const char *id, int32_t what, ANSWER) {
    (void)tl, (void)id;
    DO(what > INTERFACE_TLTYPE ? GC_ERR_NOT_IMPLEMENTED
                               : GIVE_TEXT(what == INTERFACE_TLTYPE ? "Custom" : "folders"));
}
GC_API TLOpenInterface(TL_HANDLE tl, const char *id, IF_HANDLE *interface) {
    (void)tl;
    *interface = &if_module;
    DO(strcmp(id, "folders") ? GC_ERR_INVALID_ID : GC_ERR_SUCCESS);
}
GC_API TLUpdateInterfaceList(TL_HANDLE tl, bool8_t *is_changed, uint64_t timeout) {
    (void)tl, (void)timeout;
    if (is_changed) *is_changed = 1;
    DO(GC_ERR_SUCCESS);
}
GC_API IFClose(IF_HANDLE interface) {
    DO(interface == &if_module ? GC_ERR_SUCCESS : GC_ERR_INVALID_HANDLE);
}
GC_API IFGetInfo(IF_HANDLE interface, int32_t what, ANSWER) {
    return TLGetInterfaceInfo(interface, "", what, type, to, size);
}
GC_API IFGetNumDevices(IF_HANDLE interface, uint32_t *count) {
    (void)interface;
    *count = (uint32_t)camera_count;
    DO(GC_ERR_SUCCESS);
}
GC_API IFGetDeviceID(IF_HANDLE interface, uint32_t index, char *to, size_t *size) {
    (void)interface;
    DO(index < (uint32_t)camera_count ? TEXT(modules[index].camera.name) : GC_ERR_INVALID_INDEX);
}
GC_API IFUpdateDeviceList(IF_HANDLE interface, bool8_t *is_changed, uint64_t timeout) {
    return TLUpdateInterfaceList(interface, is_changed, timeout);
}
GC_API IFGetParentTL(IF_HANDLE interface, TL_HANDLE *tl) {
    (void)interface;
    *tl = &tl_module;
    DO(GC_ERR_SUCCESS);
}

/* ---- device --------------------------------------------------------------------------------- */

static int32_t device_info(const Camera *camera, int32_t what, ANSWER) {
    if (!camera) return GC_ERR_INVALID_ID;
    switch (what) {
    case DEVICE_ID: case DEVICE_DISPLAYNAME: case DEVICE_USER_DEFINED_NAME:
    case DEVICE_SERIAL_NUMBER: return GIVE_TEXT(camera->name);
    case DEVICE_VENDOR: return GIVE_TEXT("inspectd");
    case DEVICE_MODEL: return GIVE_TEXT("Folder camera");
    case DEVICE_TLTYPE: return GIVE_TEXT("Custom");
    case DEVICE_VERSION: return GIVE_TEXT("1.0");
    case DEVICE_TIMESTAMP_FREQUENCY: return GIVE_U64(1000000000);
    case DEVICE_ACCESS_STATUS:
        return GIVE_I32(camera->is_lost ? ACCESS_NOACCESS
                        : camera->is_open ? ACCESS_OPEN_READWRITE : ACCESS_READWRITE);
    default: return GC_ERR_NOT_IMPLEMENTED;
    }
}

static int32_t open_device(const char *id, DEV_HANDLE *device) {
    Camera *camera = device_named(id);
    if (!camera) return GC_ERR_INVALID_ID;
    if (camera->is_open) return GC_ERR_RESOURCE_IN_USE;
    camera_open(camera);
    *device = &of(camera)->device;
    return camera->has_thread ? GC_ERR_SUCCESS : GC_ERR_ERROR;
}

static int32_t close_device(void *device) {
    Modules *found = of(device);
    if (!found || device != &found->device) return GC_ERR_INVALID_HANDLE;
    if (found->camera.is_open) camera_close(&found->camera);
    return GC_ERR_SUCCESS;
}

GC_API IFGetDeviceInfo(IF_HANDLE interface, const char *id, int32_t what, ANSWER) {
    (void)interface;
    DO(device_info(device_named(id), what, type, to, size));
}
GC_API IFOpenDevice(IF_HANDLE interface, const char *id, int32_t flags, DEV_HANDLE *device) {
    (void)interface, (void)flags;
    DO(open_device(id, device));
}
GC_API DevGetInfo(DEV_HANDLE device, int32_t what, ANSWER) {
    DO(device_info(of(device) ? &of(device)->camera : NULL, what, type, to, size));
}
GC_API DevGetPort(DEV_HANDLE device, PORT_HANDLE *port) {
    DO(of(device) ? (*port = &of(device)->remote, GC_ERR_SUCCESS) : GC_ERR_INVALID_HANDLE);
}
GC_API DevGetNumDataStreams(DEV_HANDLE device, uint32_t *count) {
    *count = 1;
    DO(of(device) ? GC_ERR_SUCCESS : GC_ERR_INVALID_HANDLE);
}
GC_API DevGetDataStreamID(DEV_HANDLE device, uint32_t index, char *to, size_t *size) {
    (void)device;
    DO(index ? GC_ERR_INVALID_INDEX : TEXT("stream"));
}
GC_API DevOpenDataStream(DEV_HANDLE device, const char *id, DS_HANDLE *stream) {
    (void)id;
    DO(of(device) ? (*stream = &of(device)->stream, GC_ERR_SUCCESS) : GC_ERR_INVALID_HANDLE);
}
GC_API DevGetParentIF(DEV_HANDLE device, IF_HANDLE *interface) {
    (void)device;
    *interface = &if_module;
    DO(GC_ERR_SUCCESS);
}
GC_API DevClose(DEV_HANDLE device) { DO(close_device(device)); }
GC_API DSGetParentDev(DS_HANDLE stream, DEV_HANDLE *device) {
    DO(of(stream) ? (*device = &of(stream)->device, GC_ERR_SUCCESS) : GC_ERR_INVALID_HANDLE);
}

/* ---- for stream.c --------------------------------------------------------------------------- */

Camera *camera_of_stream(void *stream) { return stream_of(stream); }
void *event_of_stream(void *stream) { return of(stream) ? &of(stream)->event : NULL; }
Camera *camera_of_event(void *event) {
    Modules *found = of(event);
    return found && event == &found->event ? &found->camera : NULL;
}
bool is_ready(void) { return is_initialised; }
int32_t remember(int32_t result) { return last_error = result; }

/* Buffers and their events: the data stream of a camera. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "camera.h"
#include "gentl.h"

Camera *camera_of_stream(void *stream);
Camera *camera_of_event(void *event);
void *event_of_stream(void *stream);
bool is_ready(void);
int32_t remember(int32_t result);

#define STREAM(expression) \
    pthread_mutex_lock(&lock); \
    Camera *camera = camera_of_stream(stream); \
    const int32_t result_ = !is_ready() ? GC_ERR_NOT_INITIALIZED \
                            : camera    ? (expression) : GC_ERR_INVALID_HANDLE; \
    pthread_mutex_unlock(&lock); \
    return remember(result_)
#define ANSWER int32_t *type, void *to, size_t *size

static int32_t give(int32_t *type, int32_t is, void *to, size_t *size, const void *from,
                    size_t bytes) {
    if (type) *type = is;
    const size_t room = *size;
    *size = bytes;
    if (!to) return GC_ERR_SUCCESS;
    if (room < bytes) return GC_ERR_BUFFER_TOO_SMALL;
    memcpy(to, from, bytes);
    return GC_ERR_SUCCESS;
}

#define GIVE(is, kind, value) give(type, is, to, size, &(kind){(kind)(value)}, sizeof(kind))
#define GIVE_TEXT(text) give(type, INFO_DATATYPE_STRING, to, size, text, strlen(text) + 1)
#define GIVE_U64(value) GIVE(INFO_DATATYPE_UINT64, uint64_t, value)
#define GIVE_SIZE(value) GIVE(INFO_DATATYPE_SIZET, size_t, value)
#define GIVE_I32(value) GIVE(INFO_DATATYPE_INT32, int32_t, value)
#define GIVE_BOOL(value) GIVE(INFO_DATATYPE_BOOL8, bool8_t, value)

/* ---- buffers -------------------------------------------------------------------------------- */

static Buffer *known(const Camera *camera, void *handle) {
    for (size_t i = 0; i < camera->announced_count; i++)
        if (camera->announced[i] == handle) return handle;
    return NULL;
}

static int32_t announce(Camera *camera, void *data, size_t size, void *user, void **handle) {
    const size_t most = sizeof camera->announced / sizeof *camera->announced;
    Buffer *buffer = camera->announced_count < most ? calloc(1, sizeof *buffer) : NULL;
    if (!buffer) return GC_ERR_ERROR;
    buffer->is_own = !data;
    buffer->data = data ? data : malloc(size);
    buffer->size = size;
    buffer->user = user;
    camera->announced[camera->announced_count++] = *handle = buffer;
    return buffer->data ? GC_ERR_SUCCESS : GC_ERR_ERROR;
}

static int32_t queue_buffer(Camera *camera, void *handle) {
    Buffer *buffer = known(camera, handle);
    if (!buffer) return GC_ERR_INVALID_HANDLE;
    if (buffer->is_queued) return GC_ERR_RESOURCE_IN_USE;
    buffer->is_queued = true;
    buffer->is_new = false;
    push(&camera->input, buffer);
    return GC_ERR_SUCCESS;
}

static void drop_queues(Camera *camera) {
    Buffer *buffer;
    while ((buffer = pop(&camera->input)) || (buffer = pop(&camera->output)))
        buffer->is_queued = buffer->is_new = false;
}

static int32_t revoke(Camera *camera, void *handle, void **data, void **user) {
    Buffer *buffer = known(camera, handle);
    if (!buffer) return GC_ERR_INVALID_HANDLE;
    if (buffer->is_queued || camera->is_copying) return GC_ERR_RESOURCE_IN_USE;
    for (size_t i = 0; i < camera->announced_count; i++)
        if (camera->announced[i] == buffer)
            camera->announced[i] = camera->announced[--camera->announced_count];
    if (data) *data = buffer->is_own ? NULL : buffer->data;
    if (user) *user = buffer->user;
    if (buffer->is_own) free(buffer->data);
    free(buffer);
    return GC_ERR_SUCCESS;
}

static int32_t flush(Camera *camera, int32_t how) {
    Buffer *buffer;
    if (how == QUEUE_OUTPUT_DISCARD) {
        while ((buffer = pop(&camera->output))) buffer->is_new = false;
    } else if (how == QUEUE_ALL_DISCARD) {
        drop_queues(camera);
    } else if (how == QUEUE_ALL_TO_INPUT || how == QUEUE_UNQUEUED_TO_INPUT) {
        if (how == QUEUE_ALL_TO_INPUT) drop_queues(camera);
        for (size_t i = 0; i < camera->announced_count; i++)
            if (!camera->announced[i]->is_queued && !camera->announced[i]->is_new)
                queue_buffer(camera, camera->announced[i]);
    } else {
        return GC_ERR_NOT_IMPLEMENTED;
    }
    return GC_ERR_SUCCESS;
}

static int32_t start(Camera *camera) {
    camera->is_grabbing = true;
    camera->started++;
    camera->delivered = camera->underruns = 0;
    return GC_ERR_SUCCESS;
}

static int32_t stop(Camera *camera) {
    camera_stop(camera);
    camera->is_grabbing = false;
    return GC_ERR_SUCCESS;
}

static int32_t close_stream(Camera *camera) {
    stop(camera);
    drop_queues(camera);
    while (camera->announced_count) revoke(camera, camera->announced[0], NULL, NULL);
    return GC_ERR_SUCCESS;
}

static int32_t stream_info(const Camera *camera, int32_t what, ANSWER) {
    switch (what) {
    case STREAM_ID: return GIVE_TEXT("stream");
    case STREAM_TLTYPE: return GIVE_TEXT("Custom");
    case STREAM_NUM_DELIVERED: return GIVE_U64(camera->delivered);
    case STREAM_NUM_UNDERRUN: return GIVE_U64(camera->underruns);
    case STREAM_NUM_STARTED: return GIVE_U64(camera->started);
    case STREAM_NUM_ANNOUNCED: return GIVE_SIZE(camera->announced_count);
    case STREAM_NUM_QUEUED: return GIVE_SIZE(camera->input.count);
    case STREAM_NUM_AWAIT_DELIVERY: return GIVE_SIZE(camera->output.count);
    case STREAM_PAYLOAD_SIZE: return GIVE_SIZE(camera->registers[R_PAYLOAD_SIZE]);
    case STREAM_IS_GRABBING: return GIVE_BOOL(camera->is_grabbing);
    case STREAM_DEFINES_PAYLOADSIZE: return GIVE_BOOL(0);
    case STREAM_NUM_CHUNKS_MAX: return GIVE_SIZE(MAX_CHUNKS);
    case STREAM_BUF_ANNOUNCE_MIN: return GIVE_SIZE(1);
    case STREAM_BUF_ALIGNMENT: return GIVE_SIZE(1);
    default: return GC_ERR_NOT_IMPLEMENTED;
    }
}

static int32_t buffer_info(const Camera *camera, void *handle, int32_t what, ANSWER) {
    const Buffer *buffer = known(camera, handle);
    if (!buffer) return GC_ERR_INVALID_HANDLE;
    const size_t image = buffer->filled - buffer->chunk_bytes;
    switch (what) {
    case BUFFER_BASE: return GIVE(INFO_DATATYPE_PTR, void *, buffer->data);
    case BUFFER_SIZE: return GIVE_SIZE(buffer->size);
    case BUFFER_USER_PTR: return GIVE(INFO_DATATYPE_PTR, void *, buffer->user);
    case BUFFER_TIMESTAMP: case BUFFER_TIMESTAMP_NS: return GIVE_U64(buffer->timestamp_ns);
    case BUFFER_NEW_DATA: return GIVE_BOOL(buffer->is_new);
    case BUFFER_IS_QUEUED: return GIVE_BOOL(buffer->is_queued);
    case BUFFER_IS_ACQUIRING: return GIVE_BOOL(0);
    case BUFFER_IS_INCOMPLETE: return GIVE_BOOL(buffer->is_incomplete);
    case BUFFER_TLTYPE: return GIVE_TEXT("Custom");
    case BUFFER_SIZE_FILLED: case BUFFER_DATA_SIZE: return GIVE_SIZE(buffer->filled);
    case BUFFER_WIDTH: return GIVE_SIZE(buffer->width);
    case BUFFER_HEIGHT: case BUFFER_DELIVERED_IMAGEHEIGHT: return GIVE_SIZE(buffer->height);
    case BUFFER_XOFFSET: return GIVE_SIZE(buffer->offset_x);
    case BUFFER_YOFFSET: return GIVE_SIZE(buffer->offset_y);
    case BUFFER_XPADDING: return GIVE_SIZE(buffer->padding);
    case BUFFER_YPADDING: case BUFFER_IMAGEOFFSET: return GIVE_SIZE(0);
    case BUFFER_FRAMEID: return GIVE_U64(buffer->frame_id);
    case BUFFER_IMAGEPRESENT: return GIVE_BOOL(1);
    case BUFFER_PAYLOADTYPE: return GIVE_SIZE(PAYLOAD_IMAGE);
    case BUFFER_PIXELFORMAT: return GIVE_U64(buffer->format);
    case BUFFER_PIXELFORMAT_NAMESPACE: return GIVE_U64(NAMESPACE_PFNC_32BIT);
    case BUFFER_PIXEL_ENDIANNESS: return GIVE_I32(ENDIAN_LITTLE);
    case BUFFER_DELIVERED_CHUNKPAYLOADSIZE: return GIVE_SIZE(image + buffer->chunk_bytes);
    case BUFFER_CHUNKLAYOUTID: return GIVE_U64(1);
    case BUFFER_DATA_LARGER_THAN_BUFFER: return GIVE_BOOL(0);
    case BUFFER_CONTAINS_CHUNKDATA: return GIVE_BOOL(buffer->chunk_bytes > 0);
    default: return GC_ERR_NOT_IMPLEMENTED;
    }
}

static int32_t chunk_data(const Camera *camera, void *handle, Chunk *chunks, size_t *count) {
    const Buffer *buffer = known(camera, handle);
    if (!buffer) return GC_ERR_INVALID_HANDLE;
    const size_t there = buffer->chunk_bytes / 8, room = *count;
    *count = there;
    if (!chunks) return GC_ERR_SUCCESS;
    if (room < there) return GC_ERR_BUFFER_TOO_SMALL;
    const size_t first = buffer->filled - buffer->chunk_bytes;
    for (size_t i = 0; i < there; i++)
        chunks[i] = (Chunk){0x1001 + i, (ptrdiff_t)(first + 8 * i), 8};
    return GC_ERR_SUCCESS;
}

GC_API DSAnnounceBuffer(DS_HANDLE stream, void *data, size_t size, void *user,
                        BUFFER_HANDLE *buffer) {
    STREAM(data ? announce(camera, data, size, user, buffer) : GC_ERR_INVALID_PARAMETER);
}
GC_API DSAllocAndAnnounceBuffer(DS_HANDLE stream, size_t size, void *user, BUFFER_HANDLE *buffer) {
    STREAM(announce(camera, NULL, size, user, buffer));
}
GC_API DSQueueBuffer(DS_HANDLE stream, BUFFER_HANDLE buffer) {
    STREAM(queue_buffer(camera, buffer));
}
GC_API DSRevokeBuffer(DS_HANDLE stream, BUFFER_HANDLE buffer, void **data, void **user) {
    STREAM(revoke(camera, buffer, data, user));
}
GC_API DSFlushQueue(DS_HANDLE stream, int32_t how) { STREAM(flush(camera, how)); }
GC_API DSStartAcquisition(DS_HANDLE stream, int32_t flags, uint64_t frames) {
    (void)flags, (void)frames;
    STREAM(start(camera));
}
GC_API DSStopAcquisition(DS_HANDLE stream, int32_t flags) {
    (void)flags;
    STREAM(stop(camera));
}
GC_API DSClose(DS_HANDLE stream) { STREAM(close_stream(camera)); }
GC_API DSGetInfo(DS_HANDLE stream, int32_t what, ANSWER) {
    STREAM(stream_info(camera, what, type, to, size));
}
GC_API DSGetBufferID(DS_HANDLE stream, uint32_t index, BUFFER_HANDLE *buffer) {
    STREAM(index < camera->announced_count ? (*buffer = camera->announced[index], GC_ERR_SUCCESS)
                                           : GC_ERR_INVALID_INDEX);
}
GC_API DSGetBufferInfo(DS_HANDLE stream, BUFFER_HANDLE buffer, int32_t what, ANSWER) {
    STREAM(buffer_info(camera, buffer, what, type, to, size));
}
GC_API DSGetBufferChunkData(DS_HANDLE stream, BUFFER_HANDLE buffer, Chunk *chunks, size_t *count) {
    STREAM(chunk_data(camera, buffer, chunks, count));
}
GC_API DSGetNumBufferParts(DS_HANDLE stream, BUFFER_HANDLE buffer, uint32_t *count) {
    *count = 0;
    STREAM(known(camera, buffer) ? GC_ERR_SUCCESS : GC_ERR_INVALID_HANDLE);
}

/* ---- events --------------------------------------------------------------------------------- */

static int32_t register_event(void *stream, int32_t kind, void **event) {
    Camera *camera = camera_of_stream(stream);
    if (!camera || kind != EVENT_NEW_BUFFER) return GC_ERR_NOT_IMPLEMENTED;
    camera->is_event_registered = true;
    camera->kills = 0;
    *event = event_of_stream(stream);
    return GC_ERR_SUCCESS;
}

static int32_t wait_for_buffer(Camera *camera, NewBuffer *found, uint64_t timeout_ms) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    if (timeout_ms > 1000000000) timeout_ms = 1000000000;
    until.tv_sec += (time_t)(timeout_ms / 1000);
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    int how = 0;
    while (!camera->output.first && !camera->kills && how != ETIMEDOUT)
        how = pthread_cond_timedwait(&changed, &lock, &until);
    if (camera->kills) {
        camera->kills--;
        return GC_ERR_ABORT;
    }
    Buffer *buffer = pop(&camera->output);
    if (!buffer) return GC_ERR_TIMEOUT;
    camera->delivered++;
    *found = (NewBuffer){buffer, buffer->user};
    return GC_ERR_SUCCESS;
}

#define EVENT(expression) \
    pthread_mutex_lock(&lock); \
    Camera *camera = camera_of_event(event); \
    const int32_t result_ = camera ? (expression) : GC_ERR_INVALID_HANDLE; \
    pthread_mutex_unlock(&lock); \
    return remember(result_)

GC_API GCRegisterEvent(EVENTSRC_HANDLE source, int32_t kind, EVENT_HANDLE *event) {
    pthread_mutex_lock(&lock);
    const int32_t result = register_event(source, kind, event);
    pthread_mutex_unlock(&lock);
    return remember(result);
}
GC_API GCUnregisterEvent(EVENTSRC_HANDLE stream, int32_t kind) {
    (void)kind;
    STREAM((camera->is_event_registered = false, GC_ERR_SUCCESS));
}
GC_API EventGetData(EVENT_HANDLE event, void *to, size_t *size, uint64_t timeout_ms) {
    if (*size < sizeof(NewBuffer)) return remember(GC_ERR_BUFFER_TOO_SMALL);
    *size = sizeof(NewBuffer);
    EVENT(wait_for_buffer(camera, to, timeout_ms));
}
GC_API EventGetDataInfo(EVENT_HANDLE event, const void *data, size_t bytes, int32_t what, ANSWER) {
    (void)event, (void)bytes;
    const NewBuffer *found = data;
    /* 0 is the id of an event, here its buffer; 1 is its value. */
    if (what > 1) return remember(GC_ERR_NOT_AVAILABLE);
    return remember(GIVE(INFO_DATATYPE_PTR, void *, found->buffer));
}
GC_API EventGetInfo(EVENT_HANDLE event, int32_t what, ANSWER) {
    EVENT(what == EVENT_EVENT_TYPE         ? GIVE_I32(EVENT_NEW_BUFFER)
          : what == EVENT_NUM_IN_QUEUE     ? GIVE_SIZE(camera->output.count)
          : what == EVENT_NUM_FIRED        ? GIVE_U64(camera->delivered)
          : what <= EVENT_INFO_DATA_SIZE_MAX ? GIVE_SIZE(sizeof(NewBuffer))
                                           : GC_ERR_NOT_IMPLEMENTED);
}
GC_API EventFlush(EVENT_HANDLE event) { EVENT(flush(camera, QUEUE_OUTPUT_DISCARD)); }
GC_API EventKill(EVENT_HANDLE event) {
    EVENT((camera->kills++, pthread_cond_broadcast(&changed), GC_ERR_SUCCESS));
}

/* ---- asked for by name, not offered --------------------------------------------------------- */

#define ABSENT(name) \
    GC_API name(void) { return remember(GC_ERR_NOT_IMPLEMENTED); }
ABSENT(DSGetBufferPartInfo)
ABSENT(DSAnnounceCompositeBuffer)
ABSENT(DSGetBufferInfoStacked)
ABSENT(DSGetBufferPartInfoStacked)
ABSENT(DSGetBufferSegmentInfo)
ABSENT(DSGetNumBufferSegments)
ABSENT(DSGetNumFlows)
ABSENT(DSGetFlowInfo)

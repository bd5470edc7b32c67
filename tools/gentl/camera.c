/* Registers and exposures of one camera. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "camera.h"
#include "gentl.h"

static const uint64_t MS = 1000000, READOUT_NS = 1000000, JUMP_NS = 3600000000000;

uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void push(Queue *queue, Buffer *buffer) {
    buffer->next = NULL;
    if (queue->last) queue->last->next = buffer;
    else queue->first = buffer;
    queue->last = buffer;
    queue->count++;
}

Buffer *pop(Queue *queue) {
    Buffer *buffer = queue->first;
    if (!buffer) return NULL;
    queue->first = buffer->next;
    if (!queue->first) queue->last = NULL;
    queue->count--;
    return buffer;
}

static double number(const Camera *camera, Register place) {
    double value;
    memcpy(&value, &camera->registers[place], sizeof value);
    return value;
}

static void set_number(Camera *camera, Register place, double value) {
    memcpy(&camera->registers[place], &value, sizeof value);
}

static void set_defaults(Camera *camera) {
    uint64_t *registers = camera->registers;
    const uint64_t width = registers[R_WIDTH_MAX], height = registers[R_HEIGHT_MAX];
    memset(registers, 0, sizeof camera->registers);
    registers[R_WIDTH] = registers[R_WIDTH_MAX] = width;
    registers[R_HEIGHT] = registers[R_HEIGHT_MAX] = height;
    registers[R_PIXEL_FORMAT] = camera->pictures[0].channels == 3 ? 0x02180014 : 0x01080001;
    registers[R_LINE_MODE_2] = 1;
    registers[R_SIM_FIRST_ID] = 1;
    registers[R_PTP_STATUS] = PTP_DISABLED;
    registers[R_SIM_PTP_STATUS] = PTP_SLAVE;
    set_number(camera, R_FRAME_RATE, 10);
    set_number(camera, R_EXPOSURE_US, 1000);
    set_number(camera, R_GAIN_DB, 0);
    set_number(camera, R_DEBOUNCER_US, 0);
    set_number(camera, R_DEBOUNCER_US_2, 0);
}

/* ---- exposures ------------------------------------------------------------------------------ */

static bool strikes(const Camera *camera, Register every) {
    return camera->registers[every] && camera->exposures % camera->registers[every] == 0;
}

static void add_chunks(Camera *camera, Buffer *buffer) {
    if (!camera->registers[R_CHUNK_ACTIVE]) return;
    const double exposure_us = number(camera, R_EXPOSURE_US);
    uint64_t values[MAX_CHUNKS] = {buffer->timestamp_ns, buffer->frame_id, camera->exposures, 0, 1};
    memcpy(&values[3], &exposure_us, sizeof exposure_us);
    memcpy(buffer->data + buffer->filled, values, sizeof values);
    buffer->chunk_bytes = sizeof values;
    buffer->filled += sizeof values;
}

/* A buffer gets this picture and comes out when its exposure and readout are over. */
static void expose(Camera *camera, int picture, uint64_t at_ns, uint64_t late_ns, bool is_whole) {
    const uint64_t exposure_ns = (uint64_t)(number(camera, R_EXPOSURE_US) * 1000);
    const uint64_t id = camera->frame_id++;
    if (camera->registers[R_SIM_ID_16] && camera->frame_id == 65536) camera->frame_id = 1;
    if (strikes(camera, R_SIM_DROP)) return;
    Buffer *buffer = pop(&camera->input);
    if (!buffer || buffer->size < camera->registers[R_PAYLOAD_SIZE]) {
        camera->underruns++;
        if (buffer) push(&camera->input, buffer);
        return;
    }
    buffer->is_incomplete = !is_whole;
    buffer->filled = is_whole ? camera->image_bytes : camera->image_bytes / 2;
    buffer->chunk_bytes = 0;
    buffer->frame_id = id;
    buffer->timestamp_ns = at_ns + exposure_ns;
    if (strikes(camera, R_SIM_TIME_JUMP)) buffer->timestamp_ns += JUMP_NS;
    buffer->due_ns = at_ns + exposure_ns + READOUT_NS + late_ns;
    buffer->width = (uint32_t)camera->registers[R_WIDTH];
    buffer->height = (uint32_t)camera->registers[R_HEIGHT];
    buffer->offset_x = (uint32_t)camera->registers[R_OFFSET_X];
    buffer->offset_y = (uint32_t)camera->registers[R_OFFSET_Y];
    buffer->padding = (uint32_t)camera->registers[R_SIM_ROW_PADDING];
    buffer->format = (uint32_t)camera->registers[R_PIXEL_FORMAT];
    uint8_t *data = buffer->data;
    const size_t bytes = buffer->filled;
    camera->is_copying = true; /* the large copy, without the lock: the buffer is in no queue */
    pthread_mutex_unlock(&lock);
    const uint8_t *image = image_of(camera, picture);
    if (image) memcpy(data, image, bytes);
    else buffer->is_incomplete = true;
    pthread_mutex_lock(&lock);
    camera->is_copying = false;
    pthread_cond_broadcast(&changed);
    if (!camera->is_acquiring) {
        push(&camera->input, buffer);
        return;
    }
    if (is_whole) add_chunks(camera, buffer);
    push(&camera->coming, buffer);
}

static void triggered(Camera *camera, int picture, uint64_t at_ns) {
    if (camera->registers[R_TRIGGER_MODE] && at_ns < camera->busy_until_ns) {
        camera->registers[R_SIM_IGNORED]++; /* still exposing the one before */
        return;
    }
    camera->exposures++;
    if (picture < 0) {
        picture = camera->next_picture;
        camera->next_picture = (picture + 1) % camera->picture_count;
    }
    picture %= camera->picture_count;
    if (camera->registers[R_SIM_LOST_AFTER] &&
        camera->exposures > camera->registers[R_SIM_LOST_AFTER])
        camera->is_lost = true;
    if (camera->is_lost || strikes(camera, R_SIM_MISS)) return;
    const uint64_t exposure_ns = (uint64_t)(number(camera, R_EXPOSURE_US) * 1000);
    camera->busy_until_ns = at_ns + exposure_ns;
    const bool is_late = strikes(camera, R_SIM_LATE);
    const uint64_t late_ns = is_late ? camera->registers[R_SIM_LATE_MS] * MS : 0;
    const bool is_whole = !strikes(camera, R_SIM_INCOMPLETE);
    expose(camera, picture, at_ns, late_ns, is_whole);
    if (strikes(camera, R_SIM_DOUBLE))
        expose(camera, picture, at_ns + exposure_ns + MS, late_ns, is_whole);
}

/* Buffers whose time has come; they arrive in the order of their exposures. */
static void deliver(Camera *camera, uint64_t at_ns) {
    while (camera->coming.first && camera->coming.first->due_ns <= at_ns && !camera->is_lost) {
        Buffer *buffer = pop(&camera->coming), *old;
        while (camera->handling == 1 && (old = pop(&camera->output))) {
            push(&camera->input, old);
            camera->underruns++;
        }
        buffer->is_queued = false;
        buffer->is_new = true;
        push(&camera->output, buffer);
        pthread_cond_broadcast(&changed);
    }
}

static void take_pulses(Camera *camera) {
    char text[32];
    ssize_t size;
    while ((size = recv(camera->line, text, sizeof text - 1, MSG_DONTWAIT)) >= 0) {
        text[size] = 0;
        if (camera->is_acquiring && camera->registers[R_TRIGGER_MODE] &&
            camera->registers[R_TRIGGER_SOURCE] == 1)
            triggered(camera, size ? atoi(text) : -1, now_ns());
    }
}

/* Exposes what is due; returns when something happens next. */
static uint64_t turn(Camera *camera, uint64_t at_ns) {
    uint64_t wake_ns = at_ns + 1000 * MS;
    if (camera->is_acquiring && !camera->registers[R_TRIGGER_MODE]) {
        const uint64_t period_ns = (uint64_t)(1e9 / number(camera, R_FRAME_RATE));
        while (camera->next_ns <= at_ns) {
            triggered(camera, -1, camera->next_ns);
            camera->next_ns += period_ns;
        }
        wake_ns = camera->next_ns;
    }
    for (; camera->software_triggers; camera->software_triggers--)
        if (camera->is_acquiring) triggered(camera, -1, at_ns);
    deliver(camera, at_ns);
    if (camera->coming.first && !camera->is_lost && camera->coming.first->due_ns < wake_ns)
        wake_ns = camera->coming.first->due_ns;
    return wake_ns;
}

static void *run(void *argument) {
    Camera *camera = argument;
    pthread_mutex_lock(&lock);
    while (!camera->must_end) {
        const uint64_t wake_ns = turn(camera, now_ns()), at_ns = now_ns();
        const uint64_t wait_ns = wake_ns > at_ns ? wake_ns - at_ns : 0;
        struct timespec patience = {(time_t)(wait_ns / 1000000000u), (long)(wait_ns % 1000000000u)};
        struct pollfd sources[] = {{camera->wake[0], POLLIN, 0}, {camera->line, POLLIN, 0}};
        pthread_mutex_unlock(&lock);
        ppoll(sources, 2, &patience, NULL);
        pthread_mutex_lock(&lock);
        char gone[64];
        if (sources[0].revents && read(camera->wake[0], gone, sizeof gone) < 0) break;
        if (sources[1].revents) take_pulses(camera);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void wake(Camera *camera) {
    if (write(camera->wake[1], "", 1) < 0 && errno != EAGAIN) perror("wake");
}

/* ---- opening and registers ------------------------------------------------------------------ */

/* The light barrier: a datagram is a pulse, a number in it names the picture. */
static int open_line(const Camera *camera) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const int written = snprintf(address.sun_path, sizeof address.sun_path, "%s/line1.sock",
                                 camera->folder);
    if (written < 0 || (size_t)written >= sizeof address.sun_path) return -1;
    const int line = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    unlink(address.sun_path);
    if (line >= 0 && bind(line, (struct sockaddr *)&address, sizeof address)) {
        close(line);
        return -1;
    }
    return line;
}

void camera_open(Camera *camera) {
    set_defaults(camera);
    camera->is_open = true;
    camera->is_lost = camera->must_end = false;
    camera->line = open_line(camera);
    camera->has_thread = !pipe(camera->wake) && !pthread_create(&camera->thread, NULL, run, camera);
}

void camera_close(Camera *camera) {
    if (camera->has_thread) {
        camera->must_end = true;
        wake(camera);
        pthread_mutex_unlock(&lock);
        pthread_join(camera->thread, NULL);
        pthread_mutex_lock(&lock);
        close(camera->wake[0]);
        close(camera->wake[1]);
    }
    if (camera->line >= 0) close(camera->line);
    camera->line = -1;
    camera->has_thread = camera->is_open = camera->is_acquiring = false;
}

void camera_stop(Camera *camera) {
    camera->is_acquiring = false;
    while (camera->is_copying) pthread_cond_wait(&changed, &lock);
    Buffer *buffer;
    while ((buffer = pop(&camera->coming))) push(&camera->input, buffer);
}

static void update_payload(Camera *camera) {
    const size_t chunks = camera->registers[R_CHUNK_ACTIVE] ? 8 * MAX_CHUNKS : 0;
    camera->registers[R_PAYLOAD_SIZE] = image_bytes(camera) + chunks;
}

static int start(Camera *camera) {
    if (!make_images(camera)) return GC_ERR_ERROR;
    if (!camera->registers[R_SIM_IDS_GO_ON] || !camera->frame_id)
        camera->frame_id = camera->registers[R_SIM_FIRST_ID];
    camera->software_triggers = 0;
    camera->busy_until_ns = 0;
    camera->next_ns = now_ns();
    camera->is_acquiring = true;
    return GC_ERR_SUCCESS;
}

int camera_write(Camera *camera, uint64_t address, const void *data, size_t size) {
    if (address % 8 || address / 8 >= R_COUNT || size != 8) return GC_ERR_INVALID_ADDRESS;
    if (camera->is_lost) return GC_ERR_IO;
    const Register place = (Register)(address / 8);
    uint64_t value;
    memcpy(&value, data, 8);
    if (place == R_PIXEL_FORMAT && !format_of(value)) return GC_ERR_INVALID_PARAMETER;
    camera->registers[place] = value;
    int result = GC_ERR_SUCCESS;
    switch (place) {
    case R_ACQUISITION_START: result = start(camera); break;
    case R_ACQUISITION_STOP: camera_stop(camera); break;
    case R_TRIGGER_SOFTWARE:
        if (camera->registers[R_TRIGGER_MODE] && camera->registers[R_TRIGGER_SOURCE] == 0)
            camera->software_triggers++;
        break;
    case R_TIMESTAMP_LATCH: camera->registers[R_TIMESTAMP_VALUE] = now_ns(); break;
    case R_PTP_LATCH:
        camera->registers[R_PTP_STATUS] =
            camera->registers[R_PTP_ENABLE] ? camera->registers[R_SIM_PTP_STATUS] : PTP_DISABLED;
        break;
    case R_SIM_LOST: camera->is_lost = true; break;
    case R_USER_SET_LOAD: set_defaults(camera); break;
    default: break;
    }
    update_payload(camera);
    wake(camera);
    return result;
}

int camera_read(Camera *camera, uint64_t address, void *data, size_t size) {
    if (address % 8 || address / 8 >= R_COUNT || size != 8) return GC_ERR_INVALID_ADDRESS;
    if (camera->is_lost) return GC_ERR_IO;
    if (address / 8 == R_PAYLOAD_SIZE) update_payload(camera);
    memcpy(data, &camera->registers[address / 8], 8);
    return GC_ERR_SUCCESS;
}

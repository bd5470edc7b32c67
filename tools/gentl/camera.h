/* One folder of pictures as a camera: its registers, its exposures, its faults. */
#ifndef FOLDER_CAMERA_H
#define FOLDER_CAMERA_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAX_CAMERAS = 16, MAX_CHUNKS = 5, XML_BYTES = 64 << 10 };

/* Registers of eight bytes, little endian; the description in features.c gives them their names. */
typedef enum {
    R_WIDTH_MAX, R_HEIGHT_MAX, R_WIDTH, R_HEIGHT, R_OFFSET_X, R_OFFSET_Y, R_PIXEL_FORMAT,
    R_PAYLOAD_SIZE, R_TL_LOCKED, R_ACQUISITION_MODE, R_ACQUISITION_START, R_ACQUISITION_STOP,
    R_FRAME_RATE, R_EXPOSURE_US, R_GAIN_DB, R_TRIGGER_SELECTOR, R_TRIGGER_MODE, R_TRIGGER_SOURCE,
    R_TRIGGER_ACTIVATION, R_TRIGGER_SOFTWARE, R_LINE_SELECTOR, R_LINE_MODE, R_LINE_MODE_2,
    R_LINE_SOURCE, R_LINE_SOURCE_2, R_DEBOUNCER_US, R_DEBOUNCER_US_2, R_CHUNK_ACTIVE,
    R_CHUNK_SELECTOR, R_CHUNK_ENABLE, R_CHUNK_ENABLE_LAST = R_CHUNK_ENABLE + MAX_CHUNKS - 1,
    R_TIMESTAMP_LATCH, R_TIMESTAMP_VALUE, R_USER_SET_SELECTOR, R_USER_SET_LOAD,
    R_SIM_DROP, R_SIM_MISS, R_SIM_DOUBLE, R_SIM_INCOMPLETE, R_SIM_LATE, R_SIM_LATE_MS,
    R_SIM_LOST_AFTER, R_SIM_LOST, R_SIM_FIRST_ID, R_SIM_ID_16, R_SIM_IDS_GO_ON, R_SIM_ROW_PADDING,
    R_SIM_TIME_JUMP, R_SIM_IGNORED, R_PTP_ENABLE, R_PTP_LATCH, R_PTP_STATUS, R_SIM_PTP_STATUS,
    R_COUNT
} Register;

/* As SFNC counts them; the order of PTP_STATES. */
enum { PTP_DISABLED = 2, PTP_SLAVE = 8 };
#define PTP_STATES \
    "Initializing,Faulty,Disabled,Listening,PreMaster,Master,Passive,Uncalibrated,Slave"

typedef struct Buffer {
    struct Buffer *next;
    uint8_t *data;
    size_t size, filled, chunk_bytes;
    void *user;
    bool is_own, is_queued, is_new, is_incomplete;
    uint64_t frame_id, timestamp_ns, due_ns;
    uint32_t width, height, offset_x, offset_y, padding, format;
} Buffer;

typedef struct {
    Buffer *first, *last;
    size_t count;
} Queue;

typedef struct {
    int width, height, channels;
    uint16_t *values; /* 12 bits, channel by channel within a pixel */
} Picture;

typedef struct Camera {
    char name[64], folder[512];
    Picture *pictures;
    int picture_count;
    uint8_t **images; /* as they are delivered */
    uint64_t images_are[6]; /* the settings that they were made for */
    size_t image_bytes;
    uint64_t registers[R_COUNT];
    bool is_open, is_stream_open, is_lost;

    pthread_t thread;
    bool has_thread, is_grabbing, is_acquiring, is_copying, must_end;
    int line, wake[2]; /* socket of the light barrier; pipe that wakes the thread */
    uint64_t exposures, frame_id, next_ns, busy_until_ns;
    int next_picture, software_triggers;

    Buffer *announced[256];
    size_t announced_count;
    Queue input, coming, output;
    uint64_t delivered, underruns, started, handling; /* handling 1: newest only */
    bool is_event_registered;
    int kills;
} Camera;

/* Everything below is called with the lock held. */
extern pthread_mutex_t lock;
extern pthread_cond_t changed;

int find_cameras(const char *folder, Camera *cameras, int most);
void free_pictures(Camera *camera);
void camera_open(Camera *camera);
void camera_close(Camera *camera);
int camera_write(Camera *camera, uint64_t address, const void *data, size_t size);
int camera_read(Camera *camera, uint64_t address, void *data, size_t size);
void camera_stop(Camera *camera);

void push(Queue *queue, Buffer *buffer);
Buffer *pop(Queue *queue);
uint64_t now_ns(void);

typedef struct {
    const char *name;
    uint32_t code;
    int channels, bits, stored_bits;
    bool is_p, is_bayer;
} Format;
extern const Format formats[];
const Format *format_of(uint64_t code);
size_t image_bytes(const Camera *camera);
bool make_images(Camera *camera);
const uint8_t *image_of(Camera *camera, int index);

const char *camera_xml(void);
const char *stream_xml(void);
const char *module_xml(void);

#endif

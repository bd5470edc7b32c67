/* Folders of PGM and PPM files, and their pictures in every pixel format. */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "camera.h"

const Format formats[] = {
    {"Mono8", 0x01080001, 1, 8, 8, false, false},
    {"Mono10", 0x01100003, 1, 10, 16, false, false},
    {"Mono12", 0x01100005, 1, 12, 16, false, false},
    {"Mono10p", 0x010A0046, 1, 10, 10, true, false},
    {"Mono12p", 0x010C0047, 1, 12, 12, true, false},
    {"Mono10Packed", 0x010C0004, 1, 10, 12, false, false},
    {"Mono12Packed", 0x010C0006, 1, 12, 12, false, false},
    {"BayerRG8", 0x01080009, 1, 8, 8, false, true},
    {"BayerRG12p", 0x010C0059, 1, 12, 12, true, true},
    {"RGB8", 0x02180014, 3, 8, 24, false, false},
    {NULL, 0, 0, 0, 0, false, false},
};

const Format *format_of(uint64_t code) {
    for (const Format *format = formats; format->name; format++)
        if (format->code == code) return format;
    return NULL;
}

static int is_picture(const struct dirent *entry) {
    const char *end = strrchr(entry->d_name, '.');
    return end && (!strcasecmp(end, ".pgm") || !strcasecmp(end, ".ppm"));
}

/* One number of a header; comments reach to the end of their line. */
static int number_in(FILE *file) {
    int c = fgetc(file), value = 0;
    while (c == '#' || isspace(c)) {
        if (c == '#')
            while (c != '\n' && c != EOF) c = fgetc(file);
        c = fgetc(file);
    }
    if (!isdigit(c)) return -1;
    for (; isdigit(c) && value < 1 << 20; c = fgetc(file)) value = 10 * value + c - '0';
    return value; /* the one white space behind it is read */
}

static bool load(const char *path, Picture *picture) {
    FILE *file = fopen(path, "rb");
    if (!file) return false;
    const int magic = fgetc(file), kind = fgetc(file);
    picture->channels = kind == '6' ? 3 : 1;
    picture->width = number_in(file);
    picture->height = number_in(file);
    const int most = number_in(file);
    bool is_good = magic == 'P' && (kind == '5' || kind == '6') && picture->width > 0 &&
                   picture->height > 0 && most > 0 && most < 65536;
    const size_t count =
        is_good ? (size_t)picture->width * (size_t)picture->height * (size_t)picture->channels : 0;
    const size_t bytes = most < 256 ? 1 : 2;
    uint8_t *raw = malloc(count * bytes + 1);
    picture->values = malloc(count * sizeof(uint16_t) + 1);
    is_good = is_good && raw && picture->values && fread(raw, bytes, count, file) == count;
    int bits = 8;
    while (most >> bits) bits++;
    for (size_t i = 0; is_good && i < count; i++) {
        const int value = bytes == 1 ? raw[i] : raw[2 * i] << 8 | raw[2 * i + 1];
        picture->values[i] = (uint16_t)(bits > 12 ? value >> (bits - 12) : value << (12 - bits));
    }
    if (!is_good) fprintf(stderr, "%s: expected a whole PGM (P5) or PPM (P6) picture\n", path);
    free(raw);
    fclose(file);
    return is_good;
}

static bool load_all(Camera *camera) {
    struct dirent **entries;
    const int count = scandir(camera->folder, &entries, is_picture, alphasort);
    if (count <= 0) return false;
    camera->pictures = calloc((size_t)count, sizeof(Picture));
    for (int i = 0; i < count; i++) {
        char path[1024];
        snprintf(path, sizeof path, "%s/%s", camera->folder, entries[i]->d_name);
        Picture *picture = &camera->pictures[camera->picture_count];
        if (load(path, picture)) {
            camera->picture_count++;
            uint64_t *most = camera->registers;
            if ((uint64_t)picture->width > most[R_WIDTH_MAX])
                most[R_WIDTH_MAX] = (uint64_t)picture->width;
            if ((uint64_t)picture->height > most[R_HEIGHT_MAX])
                most[R_HEIGHT_MAX] = (uint64_t)picture->height;
        }
        free(entries[i]);
    }
    free(entries);
    return camera->picture_count > 0;
}

int find_cameras(const char *folder, Camera *cameras, int most) {
    struct dirent **entries;
    const int count = scandir(folder, &entries, NULL, alphasort);
    int found = 0;
    for (int i = 0; i < count; i++) {
        const char *name = entries[i]->d_name;
        if (name[0] != '.' && strlen(name) < sizeof cameras->name && found < most) {
            Camera *camera = &cameras[found];
            memset(camera, 0, sizeof *camera);
            camera->line = camera->wake[0] = camera->wake[1] = -1;
            snprintf(camera->name, sizeof camera->name, "%s", name);
            snprintf(camera->folder, sizeof camera->folder, "%s/%s", folder, name);
            if (load_all(camera)) found++;
        }
        free(entries[i]);
    }
    if (count >= 0) free(entries);
    return found;
}

static void free_images(Camera *camera) {
    for (int i = 0; camera->images && i < camera->picture_count; i++) free(camera->images[i]);
    free(camera->images);
    camera->images = NULL;
}

void free_pictures(Camera *camera) {
    free_images(camera);
    for (int i = 0; i < camera->picture_count; i++) free(camera->pictures[i].values);
    free(camera->pictures);
    camera->pictures = NULL;
    camera->picture_count = 0;
}

static size_t row_bytes(const Camera *camera, const Format *format) {
    return (camera->registers[R_WIDTH] * (size_t)format->stored_bits + 7) / 8;
}

/* Packed rows without padding run on over their ends, bit by bit. */
size_t image_bytes(const Camera *camera) {
    const Format *format = format_of(camera->registers[R_PIXEL_FORMAT]);
    const size_t width = camera->registers[R_WIDTH], height = camera->registers[R_HEIGHT];
    const size_t padding = camera->registers[R_SIM_ROW_PADDING];
    if (padding) return (row_bytes(camera, format) + padding) * height;
    return (width * height * (size_t)format->stored_bits + 7) / 8;
}

/* What the sensor sees at this place: 0 outside the picture. */
static unsigned value_at(const Picture *picture, const Format *format, int x, int y, int channel) {
    if (x >= picture->width || y >= picture->height) return 0;
    if (format->is_bayer) channel = (x & 1) + (y & 1); /* RG over GB */
    else if (format->channels == 1) channel = 1;
    const size_t pixel = (size_t)y * (size_t)picture->width + (size_t)x;
    const int of = picture->channels == 3 ? channel : 0;
    return picture->values[pixel * (size_t)picture->channels + (size_t)of] >> (12 - format->bits);
}

/* Pixel number `index` of a stream that begins at `row`. */
static void store(uint8_t *row, size_t index, const Format *format, unsigned value) {
    if (format->stored_bits == 16) {
        row[2 * index] = (uint8_t)value;
        row[2 * index + 1] = (uint8_t)(value >> 8);
    } else if (format->is_p) {
        for (int bit = 0; bit < format->bits; bit++) {
            const size_t place = index * (size_t)format->bits + (size_t)bit;
            row[place / 8] |= (uint8_t)((value >> bit & 1) << place % 8);
        }
    } else if (format->stored_bits == 12) {
        uint8_t *group = row + index / 2 * 3;
        const int low_bits = format->bits - 8;
        group[index % 2 * 2] = (uint8_t)(value >> low_bits);
        group[1] |= (uint8_t)((value & ((1u << low_bits) - 1)) << index % 2 * 4);
    } else {
        row[index] = (uint8_t)value;
    }
}

static void convert(const Camera *camera, const Picture *picture, const Format *format,
                    uint8_t *image) {
    const size_t width = camera->registers[R_WIDTH], height = camera->registers[R_HEIGHT];
    const size_t padding = camera->registers[R_SIM_ROW_PADDING];
    const int left = (int)camera->registers[R_OFFSET_X], top = (int)camera->registers[R_OFFSET_Y];
    for (size_t y = 0; y < height; y++) {
        uint8_t *row = padding ? image + y * (row_bytes(camera, format) + padding) : image;
        const size_t first = padding ? 0 : y * width * (size_t)format->channels;
        for (size_t x = 0; x < width; x++)
            for (int c = 0; c < format->channels; c++)
                store(row, first + x * (size_t)format->channels + (size_t)c, format,
                      value_at(picture, format, left + (int)x, top + (int)y, c));
        if (padding) memset(row + row_bytes(camera, format), 0xEE, padding);
    }
}

/* Pictures are converted when they are first shown, and again only in another format. */
bool make_images(Camera *camera) {
    const uint64_t *now = camera->registers;
    const uint64_t key[] = {now[R_PIXEL_FORMAT], now[R_WIDTH],    now[R_HEIGHT],
                            now[R_OFFSET_X],     now[R_OFFSET_Y], now[R_SIM_ROW_PADDING]};
    _Static_assert(sizeof key == sizeof camera->images_are, "one place for each setting");
    if (camera->images && !memcmp(key, camera->images_are, sizeof key)) return true;
    free_images(camera);
    memcpy(camera->images_are, key, sizeof key);
    camera->image_bytes = image_bytes(camera);
    camera->images = calloc((size_t)camera->picture_count, sizeof *camera->images);
    return camera->images != NULL;
}

const uint8_t *image_of(Camera *camera, int index) {
    uint8_t **image = &camera->images[index];
    if (!*image && (*image = calloc(1, camera->image_bytes)))
        convert(camera, &camera->pictures[index], format_of(camera->images_are[0]), *image);
    return *image;
}

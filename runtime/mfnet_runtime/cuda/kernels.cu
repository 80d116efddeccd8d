// Windows out of a scene, their logits into one, and its classes: the GPU's side of scaling.py,
// blend.py and windows.py, equal to them bit by bit (confidence: to one unit). `make kernels` turns
// it into kernels.ptx; a C++ compiler takes it too, so that it can be tested without a GPU.
//
// A scene lies on the device as a ring of rows: scene row r in slot r % slots. Every thread owns
// what it writes and meets the windows in order, so results do not depend on timing.
//
// Memory moved, for windows of 256 x 256 in FP16, an image in uint8 and 6 classes:
//   cut     reads 0.5 MiB and writes 0.5 MiB a window
//   blend   reads 0.75 MiB a window, and reads and writes 24 bytes a pixel under a batch:
//           0.6 MiB a window for 16 windows at stride 32
//   finish  reads 25 and writes 25 bytes a pixel of the scene, 26 with confidence
// That is 3.4 GB/s at 1,400 windows a second, less than a thousandth of what an H200 can move.

#include <stdint.h>

#ifdef __CUDACC__
#include <cuda_fp16.h>
#define ON_BOTH __host__ __device__ inline
typedef __half half_t;
#else
#include <math.h>
#define ON_BOTH inline
typedef _Float16 half_t;
#endif

const int IMAGE_VALID = 1;  // bits of a mask
const int DSM_VALID = 2;
const uint8_t NODATA = 255;  // class and confidence where image or DSM has no data

// Where a window lies, and which rows of the tables of shares are its own.
struct Placement {
  int32_t row, column;  // of its first pixel, in the scene
  int32_t row_share, column_share;
};

struct Cut {
  const void* image;            // (3, slots, width), uint8, uint16 or float
  const float* dsm;             // (slots, width), metres
  const uint8_t* mask;          // (slots, width)
  const Placement* placements;  // (windows)
  void* image_out;              // (windows, 3, window, window), float or half
  void* dsm_out;                // (windows, 1, window, window)
  int32_t slots, width, height, window;
  float image_scale;  // pixel values times this
  float low, range;   // heights: minus, then divided by
  int32_t constant;   // not 0: the scene's DSM has one height only, all become 0
};

struct Blend {
  float* sums;                  // (classes, slots, width)
  const void* logits;           // (windows, classes, window, window), float or half
  const Placement* placements;  // (windows)
  const float* row_shares;      // (offsets, window)
  const float* column_shares;   // (offsets, window)
  int32_t slots, width, window, windows, classes;
  int32_t top, bottom, left, right;  // the scene's pixels under the windows
};

struct Finish {
  float* sums;           // (classes, slots, width)
  const uint8_t* mask;   // (mask_slots, width)
  uint8_t* classes_out;  // (stop - start, width)
  uint8_t* confidence;   // (stop - start, width), percent; or null
  int32_t* not_finite;   // set to 1 if a logit is NaN or infinite
  int32_t slots, mask_slots, width, classes;
  int32_t start, stop;  // scene rows
};

struct Thread {
  unsigned x, y, z;
};

// Each operation rounds to nearest by itself, as numpy's do: no fused multiply-add, no reciprocal.
#ifdef __CUDA_ARCH__
ON_BOTH float product(float a, float b) { return __fmul_rn(a, b); }
ON_BOTH float sum(float a, float b) { return __fadd_rn(a, b); }
ON_BOTH float difference(float a, float b) { return __fsub_rn(a, b); }
ON_BOTH float quotient(float a, float b) { return __fdiv_rn(a, b); }
#else
ON_BOTH float product(float a, float b) { return a * b; }
ON_BOTH float sum(float a, float b) { return a + b; }
ON_BOTH float difference(float a, float b) { return a - b; }
ON_BOTH float quotient(float a, float b) { return a / b; }
#endif

ON_BOTH float clipped(float value) { return value < 0.0f ? 0.0f : value > 1.0f ? 1.0f : value; }

ON_BOTH bool finite(float value) { return fabsf(value) <= 3.402823466e38f; }

// Index `at` of a scene of `length` pixels, continued by reflection as numpy.pad's "reflect" does.
ON_BOTH int reflected(int at, int length) {
  if (at < length) return at;
  if (length == 1) return 0;
  const int period = 2 * (length - 1);
  const int place = at % period;
  return place < length ? place : period - place;
}

// x, y: pixel of the window; z: window.
template <typename Stored, typename Float>
ON_BOTH void cut(const Cut& a, Thread at) {
  const int column = at.x, row = at.y;
  if (column >= a.window || row >= a.window) return;
  const Placement place = a.placements[at.z];
  const int scene_row = place.row + reflected(row, a.height);
  const int scene_column = place.column + reflected(column, a.width);
  const int64_t plane = (int64_t)a.slots * a.width;
  const int64_t source = (int64_t)(scene_row % a.slots) * a.width + scene_column;
  const int64_t area = (int64_t)a.window * a.window;
  const int64_t target = (int64_t)row * a.window + column;
  const uint8_t valid = a.mask[source];

  const Stored* image = (const Stored*)a.image + source;
  Float* image_out = (Float*)a.image_out + at.z * 3 * area + target;
  for (int band = 0; band < 3; ++band) {
    const float scaled = product((float)image[band * plane], a.image_scale);
    image_out[band * area] = (Float)(valid & IMAGE_VALID ? scaled : 0.0f);
  }
  const float height = clipped(quotient(difference(a.dsm[source], a.low), a.range));
  ((Float*)a.dsm_out)[at.z * area + target] =
      (Float)((valid & DSM_VALID) && !a.constant ? height : 0.0f);
}

// x, y: pixel under the batch; z: class.
template <typename Float>
ON_BOTH void blend(const Blend& a, Thread at) {
  const int column = a.left + at.x, row = a.top + at.y;
  if (column >= a.right || row >= a.bottom) return;
  const int64_t area = (int64_t)a.window * a.window;
  float* place = a.sums + ((int64_t)at.z * a.slots + row % a.slots) * a.width + column;
  const Float* logits = (const Float*)a.logits + at.z * area;
  float total = *place;
  bool touched = false;
  for (int n = 0; n < a.windows; ++n) {
    const Placement window = a.placements[n];
    const int i = row - window.row, j = column - window.column;
    if (i < 0 || j < 0 || i >= a.window || j >= a.window) continue;
    const float share =
        product(a.row_shares[(int64_t)window.row_share * a.window + i],
                a.column_shares[(int64_t)window.column_share * a.window + j]);
    const float logit = (float)logits[n * a.classes * area + (int64_t)i * a.window + j];
    total = sum(total, product(logit, share));
    touched = true;
  }
  if (touched) *place = total;
}

// x: column of the scene; y: row after the first.
ON_BOTH void finish(const Finish& a, Thread at) {
  const int column = at.x, row = a.start + (int)at.y;
  if (column >= a.width || row >= a.stop) return;
  const int64_t plane = (int64_t)a.slots * a.width;
  float* sums = a.sums + (int64_t)(row % a.slots) * a.width + column;
  const int64_t target = (int64_t)at.y * a.width + column;
  const int both = IMAGE_VALID | DSM_VALID;
  const bool valid = (a.mask[(int64_t)(row % a.mask_slots) * a.width + column] & both) == both;

  float largest = sums[0];
  bool all_finite = finite(largest);
  int best = 0;
  for (int k = 1; k < a.classes; ++k) {
    const float logit = sums[k * plane];
    all_finite = all_finite && finite(logit);
    if (logit > largest) {
      largest = logit;
      best = k;
    }
  }
  if (!all_finite) *a.not_finite = 1;  // all who write it write the same
  a.classes_out[target] = valid ? (uint8_t)best : NODATA;
  if (a.confidence) {
    float total = 0.0f;  // softmax of the largest is 1 / total
    for (int k = 0; k < a.classes; ++k) total += expf(sums[k * plane] - largest);
    a.confidence[target] = valid ? (uint8_t)rintf(100.0f / total) : NODATA;
  }
  for (int k = 0; k < a.classes; ++k) sums[k * plane] = 0.0f;
}

#ifdef __CUDACC__
#define KERNEL(NAME, ARGS, BODY)                                                   \
  extern "C" __global__ void NAME(const ARGS args) {                               \
    const Thread at = {blockIdx.x * blockDim.x + threadIdx.x,                      \
                       blockIdx.y * blockDim.y + threadIdx.y, blockIdx.z};         \
    BODY(args, at);                                                                \
  }
#else
// The same threads one after the other, the first or the last one first.
#define KERNEL(NAME, ARGS, BODY)                                                   \
  extern "C" void NAME(const ARGS* args, const unsigned* threads, int backwards) { \
    const unsigned width = threads[0], height = threads[1], depth = threads[2];    \
    for (unsigned z = 0; z < depth; ++z)                                           \
      for (unsigned y = 0; y < height; ++y)                                        \
        for (unsigned x = 0; x < width; ++x) {                                     \
          const Thread first = {x, y, z};                                          \
          const Thread last = {width - 1 - x, height - 1 - y, depth - 1 - z};      \
          BODY(*args, backwards ? last : first);                                   \
        }                                                                          \
  }
#endif

KERNEL(cut_uint8_float16, Cut, (cut<uint8_t, half_t>))
KERNEL(cut_uint8_float32, Cut, (cut<uint8_t, float>))
KERNEL(cut_uint16_float16, Cut, (cut<uint16_t, half_t>))
KERNEL(cut_uint16_float32, Cut, (cut<uint16_t, float>))
KERNEL(cut_float32_float16, Cut, (cut<float, half_t>))
KERNEL(cut_float32_float32, Cut, (cut<float, float>))
KERNEL(blend_float16, Blend, (blend<half_t>))
KERNEL(blend_float32, Blend, (blend<float>))
KERNEL(finish, Finish, (finish))
